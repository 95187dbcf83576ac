# `just NAME`; without just, copy the line.
test:
    pytest
format:
    ruff format . && ruff check --fix . && git ls-files "csrc/**" "fuzz/*.cpp" "tests/cross/*.cpp" | xargs clang-format -i
check:
    ruff format --check . && ruff check . && pyright
cards:
    for net in src/bitsr/zoo/*.bsr; do bitsr info --card $net > docs/cards/$(basename $net .bsr).md; done
bench:
    python -m bench
