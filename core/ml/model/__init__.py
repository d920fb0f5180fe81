"""The diffusion transformer, its adapters and its checkpoints. Knows nothing of the web, the database or settings."""
