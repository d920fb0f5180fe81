"""What breaks under a running service, and what must hold: `make faults` runs all of it, `make test` some of each."""
