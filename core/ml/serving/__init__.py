"""The serving engine: requests, the scheduler, the runner and the loop that joins them."""
