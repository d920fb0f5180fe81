"""Data sets: uploaded zips of training images, with one folder per class label."""
