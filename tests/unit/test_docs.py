"""Pages hold what is generated for them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pydantic")

from bitsr.train import reference

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_page_of_recipe_keys_is_up_to_date() -> None:
    """To renew it: python -m bitsr.train.reference docs/training.md"""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(reference.BEGIN) == text.count(reference.END) == 1
    assert reference.block() in text


def test_every_recipe_key_has_a_meaning_and_a_type() -> None:
    rows = [line.split("|") for line in reference.tables().splitlines() if line.startswith("| `")]
    keys = {row[1].strip(" `") for row in rows}
    for _, model in reference.SECTIONS:
        sections = {"net", "data", "train"}
        assert model.model_fields.keys() - sections <= keys
    assert all(len(row) == 6 and row[2].strip() and len(row[4].strip()) > 10 for row in rows)


def test_a_page_is_updated(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reference.BEGIN}\nold\n{reference.END}\nafter\n")
    reference.update(page)
    assert page.read_text() == f"before\n{reference.block()}\nafter\n"
