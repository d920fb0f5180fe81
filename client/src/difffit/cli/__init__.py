"""The `difffit` command. Modules here load HTTP and models only when a command runs, so that help is quick."""
