"""The REST API. Never imports torch, not even indirectly."""
