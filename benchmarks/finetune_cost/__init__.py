"""Measures time and memory of a training step of each fine-tuning method, next to full fine-tuning."""
