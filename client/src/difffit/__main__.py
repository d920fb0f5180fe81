"""`python -m difffit`: the command."""

from difffit.cli.app import app

if __name__ == "__main__":
    app(prog_name="difffit")
