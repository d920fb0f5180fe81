"""Measures the service on one GPU, in at most four minutes: `python -m benchmarks.gpu`.

One process runs phase after phase on one DiT-XL/2 with random weights. Each phase has a time limit, and the JSON is
rewritten after each, so that an interrupted run keeps its results. Only torch, triton, numpy, safetensors and Pillow
are required; if diffusers is missing, phases that need it use a replacement, and the results say so.
"""
