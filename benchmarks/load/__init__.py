"""Measures requests per second of one API process, next to a bare FastAPI route on the same PostgreSQL."""
