"""Measures the serving of many domains in one batch: `python -m benchmarks.serving` prints one table.

Most rows show the ratio of two sides, which are measured in turns in the same process, and the limit on that ratio.
"""
