"""Adapters: the stored versions of a domain."""
