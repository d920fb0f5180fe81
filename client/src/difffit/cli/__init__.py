"""The `difffit` command. Its modules import httpx and the models only when a command runs, so that `--help` is fast."""
