"""Domains: the image styles of a tenant."""
