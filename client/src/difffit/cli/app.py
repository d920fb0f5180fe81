"""Root of the `difffit` command, to which other installed packages can add commands."""

from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from difffit import __version__
from difffit.cli import account, adapters, admin, datasets, deletions, domains, finetunes, generations, images, webhooks
from difffit.cli.base import State, command
from difffit.cli.failures import EXIT_CODES

GROUP = "difffit.commands"
"""Group of the entry points that add commands. Each entry point names a `typer.Typer` with one command, which is
imported only when the command is run or listed."""


WITH_SERVER = ("train", "sample", "evaluate", "export")
"""Commands that the server's package adds."""


class Root(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *sorted(_added())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command with this name. Looks for entry points only if no built-in command has the name."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name not in _added():
            if cmd_name in WITH_SERVER:
                raise typer.BadParameter(
                    f"'{cmd_name}' needs the server's packages: pip install '.[worker]' ./client in its source folder."
                )
            return None
        return typer.main.get_command(_added()[cmd_name].load())


def _added() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


app = typer.Typer(
    cls=Root,
    invoke_without_command=True,
    epilog=EXIT_CODES,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option(help="Stored login to use. DIFFFIT_PROFILE does the same.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Fine-tune a base model on your image domains with a DiffFit server, and generate images with it.

    DIFFFIT_URL and DIFFFIT_API_KEY set the server's address and the API key. `difffit login` stores both.
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    context.obj = State(profile=profile)


command(app)(account.login)
command(app)(account.logout)
command(app)(account.status)
command(app)(account.whoami)
command(app)(account.base)
app.add_typer(domains.app, name="domains")
app.add_typer(datasets.app, name="datasets")
app.add_typer(finetunes.app, name="finetunes")
app.add_typer(adapters.app, name="adapters")
command(app)(generations.generate)
app.add_typer(generations.app, name="generations")
app.add_typer(images.app, name="images")
app.add_typer(deletions.app, name="deletions")
app.add_typer(webhooks.app, name="webhooks")
command(app)(account.usage)
command(app)(account.inspect)
app.add_typer(admin.app, name="admin")
