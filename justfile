# `just NAME`; without just, copy the line.
test:
    pytest
quick:
    pytest -m "not slow"
format:
    ruff format . && ruff check --fix . && git ls-files "csrc/**" "fuzz/*.cpp" "tests/cross/*.cpp" | xargs clang-format -i
check:
    ruff format --check .
    ruff check .
    git ls-files "csrc/**" "fuzz/*.cpp" "tests/cross/*.cpp" | xargs clang-format --dry-run --Werror
    pyright
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict -q
# What other systems get, built here and run under wine and qemu where they are; minutes at first.
# Wants `pip install ziglang`.
cross:
    BITSR_CROSS=1 pytest tests/slow/test_cross.py
# The pins of today's newest versions; TORCH stays as it is. Wants `pip install uv`.
constraints TORCH="2.13.0":
    sed -i '/^[^#]/,$d' constraints.txt
    echo 'torch=={{TORCH}}' | uv pip compile pyproject.toml - --extra train --extra test --extra dev --extra docs --universal --python-version 3.10 --no-header --no-annotate -q | grep -vE '^(nvidia|cuda|triton)-?' >> constraints.txt
docs:
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict
cards:
    for net in src/bitsr/zoo/*.bsr; do bitsr info --card $net > docs/cards/$(basename $net .bsr).md; done
bench:
    python -m bench
wasm:
    cd js && npm ci && npm run build
web: wasm
    cd web && npm ci && npm run check && npm run build
