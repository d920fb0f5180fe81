"""Data sets: uploaded zips, one folder a class."""
