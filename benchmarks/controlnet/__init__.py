"""DiffFit + ControlNet (section 6 of arXiv 2304.06648) on diffusers' UNet and ControlNet."""
