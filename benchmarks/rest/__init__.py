"""Measures guided images per second through the REST API on one GPU, next to the bare forward."""
