"""Retention over a million generations while the API is busy."""
