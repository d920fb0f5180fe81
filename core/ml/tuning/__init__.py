"""Fine-tuning: latents, where the trainables start, the trainer and its checkpoints."""
