"""Measures speed, memory and quality of the project. Each benchmark prints a table and can write JSON."""
