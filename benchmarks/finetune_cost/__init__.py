"""Cost of a step of each method next to full fine-tuning: time and memory."""
