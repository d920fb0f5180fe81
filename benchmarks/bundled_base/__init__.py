"""Measures the quality of the bundled base, and how far the demo's fine-tune takes it: `python -m
benchmarks.bundled_base`."""
