"""Builds the bundled mini base: renders emoji, trains the autoencoder and then the transformer. README.md in this
folder describes it."""
