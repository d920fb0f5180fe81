"""Fine-tuning and drawing without a server, for the `difffit` command of the client."""
