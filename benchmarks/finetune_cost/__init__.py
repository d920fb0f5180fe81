"""What a step of each method costs, beside full fine-tuning: time and memory."""
