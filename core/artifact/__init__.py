"""Bases and adapters without torch: names, shapes, digests, checks."""
