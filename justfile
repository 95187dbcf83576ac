# `just NAME`; without just, copy the line.
test:
    pytest
format:
    ruff format . && ruff check --fix . && clang-format -i csrc/*.cpp csrc/*.h
check:
    ruff format --check . && ruff check . && pyright
cards:
    for net in src/bitsr/zoo/*.bsr; do bitsr info --card $net > docs/cards/$(basename $net .bsr).md; done
docs:
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict
bench:
    python -m bench
