"""One kind of attempt for each queue: validating data sets, fine-tuning, and generating images."""
