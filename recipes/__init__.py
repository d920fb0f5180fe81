"""Recipe of the bundled mini base: emoji images, autoencoder, transformer. Read README.md in this folder."""
