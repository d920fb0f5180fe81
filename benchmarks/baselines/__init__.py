"""What else one could serve many domains with, as fast as it goes: the engine is measured against these."""
