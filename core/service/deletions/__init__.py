"""Receipts of what was deleted, and the removal of its objects."""
