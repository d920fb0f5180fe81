"""Fine-tuning and image generation without a server: the `difffit train` and `difffit sample` commands."""
