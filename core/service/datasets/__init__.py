"""Data sets: uploaded zips, one folder per class."""
