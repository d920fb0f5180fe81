"""Experiments of the DiffFit paper (arXiv 2304.06648) as commands: `python -m benchmarks.paper --help`."""
