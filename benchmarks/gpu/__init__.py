"""Measures the service on one GPU, in at most four minutes: `python -m benchmarks.gpu`.

One process and one DiT-XL/2 on random weights, phase by phase: each has a limit of its own in seconds, and the JSON is
written again after each, so that a run that is cut short keeps what it has. It needs torch, triton, numpy and
safetensors alone; what needs diffusers says so when it is missing.
"""
