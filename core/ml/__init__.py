"""Model half: everything that needs torch. Knows `core.artifact` alone."""
