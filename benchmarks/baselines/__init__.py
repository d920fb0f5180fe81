"""Alternatives for serving many domains, each made as fast as possible: the engine is compared with them."""
