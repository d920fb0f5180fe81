"""Measurements. Each file answers one question, prints a table and can write JSON."""
