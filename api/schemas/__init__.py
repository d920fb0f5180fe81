"""Request and response models, a file a noun."""
