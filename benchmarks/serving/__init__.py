"""How well does one batch serve everybody? `python -m benchmarks.serving` measures it and prints one table.

Each row is a ratio of two sides that were measured in turns in the same process, and the limit it has to keep.
"""
