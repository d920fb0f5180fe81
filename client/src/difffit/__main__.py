"""Entry point of `python -m difffit`, which runs the `difffit` command."""

from difffit.cli.app import app

if __name__ == "__main__":
    app(prog_name="difffit")
