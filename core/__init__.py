"""The service without its edges: what an adapter is, the model half, the database half, and the nouns."""
