"""Faults in a running service, and the guarantees that must hold. `make faults` runs all faults, `make test` a short
form of most."""
