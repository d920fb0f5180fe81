"""Fine-tuning: the latents of the training images, start values of the trainable tensors, the trainer, checkpoints."""
