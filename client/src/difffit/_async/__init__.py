"""Asynchronous client, written by hand. The synchronous client in `_sync` is generated from it."""
