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
