"""Every relative link, image and anchor of the Markdown pages points to something that is there."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "bench", "checkpoints", "docs", "examples", "fuzz")
"""Those that have pages, "." without its folders."""
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
CODE = re.compile(r"^(```.*?^```|(?: {4}|\t).*?)$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    found = [path for f in FOLDERS for path in (ROOT / f).glob("*.md" if f == "." else "**/*.md")]
    return sorted(found)


def links(text: str) -> list[str]:
    """Targets of the links of a page, those in code left out."""
    return LINK.findall(CODE.sub("", text))


def slug(heading: str) -> str:
    """The anchor that GitHub and mkdocs give to a plain heading."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)}


def broken(page: Path, target: str) -> str:
    """Why a link of a page leads nowhere; "" if it does not."""
    if re.match(r"[a-z][a-z+.-]*:", target):
        return "" if target.startswith(("https://", "mailto:")) else "neither relative nor https"
    path, _, anchor = unquote(target).partition("#")
    if path.startswith("/"):
        return "absolute"
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(ROOT):
        return "outside the repository"
    if not file.exists():
        return "not there"
    return f"no heading {anchor!r}" if anchor and anchor not in anchors(file) else ""


def test_there_are_pages_with_links() -> None:
    assert {ROOT / "README.md", ROOT / "docs" / "training.md"} <= set(pages())
    assert len(links((ROOT / "README.md").read_text(encoding="utf-8"))) > 5


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    found = {target: broken(page, target) for target in links(page.read_text(encoding="utf-8"))}
    assert not {target: why for target, why in found.items() if why}


def test_what_it_finds(tmp_path: Path) -> None:
    """Links in code are none; each kind of fault is found."""
    text = "# A `b` c\n[x](y.md 'z') `[a](b)`\n```\n[c](d)\n```\n    [e](f)\n![i [j]](k.png) [l](<m.md>)\n"
    assert links(text.replace("'z'", '"z"')) == ["y.md", "k.png", "m.md"]
    assert slug("A `b` c, d: E-f") == "a-b-c-d-e-f"
    readme = ROOT / "README.md"
    assert (
        not broken(readme, "README.md#bitsr") and not broken(readme, "#bitsr") and not broken(readme, "docs")
    )
    for target in ("nowhere.md", "#nowhere", "README.md#nowhere", "/README.md", "../x.md", "http://x.org"):
        assert broken(readme, target), target


def test_runs_of_the_experiments() -> None:
    """Each row is whole, and its page and its commit have the right form."""
    folder = ROOT / "docs" / "experiments"
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["idea", "in_the_net", "dB", "seed_noise", "time_cost", "page", "commit"]
    for row in rows[1:]:
        assert len(row) == 7, row
        idea, kept, _, _, _, page, commit = row
        assert idea and kept and (folder / page).is_file() and re.fullmatch("[0-9a-f]{7}", commit), row
