"""Measures the quality of the bundled base, and how close the demo's fine-tune brings it to the sample domain:
`python -m benchmarks.bundled_base`."""
