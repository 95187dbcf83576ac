"""Faster training on CPUs and GPUs."""
