"""Pages of the dashboard, one file each. Importing a file registers its page at a URL."""
