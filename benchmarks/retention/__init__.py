"""Measures how much the deletion of a million old generations (retention) slows the API down."""
