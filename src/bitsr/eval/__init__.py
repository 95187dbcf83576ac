"""Measuring: image quality, complexity, speed, model cards and tables."""
