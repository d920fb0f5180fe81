"""Request and response models of the API, one file per kind of object."""
