"""The diffusion transformer, its adapters and its checkpoints. Imports nothing of the web service, the database or its
settings."""
