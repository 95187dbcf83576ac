"""What tests of pictures and commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_nets import srresnet

SLOW = {Path(__file__).parent / name for name in ("slow", "train", "browser")}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & set(item.path.parents):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def net_file(tmp_path_factory):
    """The .bsr file of a random x4 net, small and fast."""
    path = tmp_path_factory.mktemp("net") / "random-x4.bsr"
    srresnet(blocks=1).write(path)
    return path
