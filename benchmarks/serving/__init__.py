"""Measures the serving of many domains in one batch: `python -m benchmarks.serving` prints one table.

Each row is a ratio of two sides that were measured in turns in the same process, and the limit it has to keep.
"""
