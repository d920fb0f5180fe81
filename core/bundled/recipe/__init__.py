"""How the bundled mini base is made: drawings, autoencoder, transformer. Read README.md beside this file."""
