"""Code about bases and adapters that needs no torch: tensor names and shapes, digests, the adapter file and its
checks."""
