"""Benchmarks: ``python -m bench`` from the root of the repository. see bench/README.md."""
