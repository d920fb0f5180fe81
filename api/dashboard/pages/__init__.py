"""The pages, one file each. Importing a page registers its address."""
