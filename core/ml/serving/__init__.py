"""The serving engine: image requests, the scheduler, the runner that computes steps, and the loop that drives them."""
