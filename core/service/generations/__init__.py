"""Generations: images drawn with an adapter."""
