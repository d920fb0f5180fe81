"""Faults in a running service, and the guarantees that must hold: `make faults` runs all of them, `make test` some of
each kind."""
