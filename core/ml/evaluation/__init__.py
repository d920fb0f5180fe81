"""Measures of the quality of generated images."""
