# `just NAME`; without just, copy the line.
test:
    pytest
format:
    ruff format . && ruff check --fix . && clang-format -i csrc/*.cpp csrc/*.h
check:
    ruff format --check . && ruff check . && pyright
bench:
    python -m bench
