"""What a base and an adapter are, without torch: names, shapes, digests, checks."""
