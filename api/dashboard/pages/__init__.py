"""The pages, a file each. Importing one registers its address."""
