"""Fine-tuning, image generation and export without a server: `difffit train`, `difffit sample`, `difffit export`."""
