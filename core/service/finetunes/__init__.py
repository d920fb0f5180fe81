"""Fine-tunes: from a data set to an adapter."""
