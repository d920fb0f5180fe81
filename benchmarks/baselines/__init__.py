"""Alternatives to the engine for serving many domains, each made as fast as possible, with which the engine is
compared."""
