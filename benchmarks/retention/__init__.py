"""Retention over a million generations beside a busy API."""
