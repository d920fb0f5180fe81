"""The noise schedule, the training loss and the samplers. Pure functions over batches."""
