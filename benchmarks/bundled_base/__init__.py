"""How good is the bundled base, and how far does the demo's fine-tune take it? `python -m benchmarks.bundled_base`."""
