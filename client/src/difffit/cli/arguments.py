"""Arguments and options that several commands share."""

from contextlib import suppress
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Literal
from unicodedata import normalize

import typer

from difffit.cli.failures import INTERRUPTED
from difffit.requests import Keep, Sampling

if TYPE_CHECKING:
    from difffit import Client
    from difffit.models import Tenant

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="Name or id of the domain.")]
OptionalDomainArgument = Annotated[
    str | None, typer.Argument(metavar="[DOMAIN]", help="Name or id of the domain. All domains by default.")
]
HOUR, DAY = 3600, 86_400
"""Seconds."""
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of rows. All by default.")]
JobStatusOption = Annotated[
    Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
    typer.Option("--status", help="List only jobs with this status."),
]
ClassOption = Annotated[str | None, typer.Option("--class", help="List only images of this class.")]
AdapterOption = Annotated[
    str | None, typer.Option("--adapter", help="List only images of this version, or of the `base`.")
]
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
AfterOption = Annotated[
    datetime | None, typer.Option("--after", formats=_TIMES, help="List only those created after this local time.")
]
BeforeOption = Annotated[
    datetime | None, typer.Option("--before", formats=_TIMES, help="List only those created before this local time.")
]
FromDayOption = Annotated[
    datetime | None,
    typer.Option("--from", formats=_TIMES[:1], help="First day, in UTC. By default 30 days before the last one."),
]
ToDayOption = Annotated[
    datetime | None, typer.Option("--to", formats=_TIMES[:1], help="Last day, in UTC, included. By default today.")
]
KeepImageDaysOption = Annotated[
    int | None,
    typer.Option("--keep-image-days", min=0, help="Days until images are deleted. 0 removes this limit."),
]
KeepFavouritesOption = Annotated[
    bool | None, typer.Option("--keep-favourites/--expire-favourites", help="Whether favourites stay then.")
]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps.")]
BatchSizeOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Images per step.")]
LearningRateOption = Annotated[
    float | None, typer.Option("--learning-rate", help="Learning rate, the same for all steps.")
]
ImageSizeOption = Annotated[
    int | None, typer.Option("--image-size", help="Image side in pixels: the base's size, or twice that.")
]
DistillGuidanceOption = Annotated[
    float | None,
    typer.Option(
        "--distill-guidance",
        help="Highest guidance scale to learn, above 1: images then take one model evaluation per step.",
    ),
]
DistillStepsOption = Annotated[
    int | None, typer.Option("--distill-steps", min=1, help="Number of the last steps that learn guidance.")
]
TrainClassTableOption = Annotated[
    bool | None,
    typer.Option(
        "--train-classes/--keep-classes",
        help="Whether to train class embeddings, or to keep the base's. Then the base must know all class names.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="The same data, settings and seed give the same adapter up to rounding."),
]
SamplingOption = Annotated[
    Sampling | None,
    typer.Option("--sampling", help="`balanced` shows all classes equally often, `shuffled` all images."),
]
EvaluateEveryOption = Annotated[
    int | None, typer.Option("--evaluate-every", min=1, help="Steps between evaluations on held-out images.")
]
KeepOption = Annotated[
    Keep | None, typer.Option("--keep", help="Adapter to keep: of the last step, or with the lowest held-out loss.")
]
EarlyStoppingOption = Annotated[
    int | None,
    typer.Option("--early-stopping", min=1, help="Stop after this many evaluations without a lower held-out loss."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]


def domain_id(client: "Client", name_or_id: str) -> str:
    """Returns the id of the domain with this name or id. Raises NotFound."""
    from difffit.errors import Missing, NotFound

    if name_or_id.startswith("dom_"):
        with suppress(NotFound):
            return client.domains.get(name_or_id).id
    for domain in client.domains.list(name=name_or_id):
        return domain.id
    raise Missing(f"There is no domain with the name or id '{name_or_id}'.")


def tenant_of(client: "Client", name_or_id: str) -> "Tenant":
    """Returns the tenant with this name or id. Raises NotFound."""
    from difffit.errors import Missing, NotFound

    if name_or_id.startswith("ten_"):
        with suppress(NotFound):
            return client.admin.tenants.get(name_or_id)
    name = normalize("NFC", name_or_id)
    for tenant in client.admin.tenants.list(name=name):
        if tenant.name == name:
            return tenant
    raise Missing(f"There is no tenant with the name or id '{name_or_id}'.")


def optional_tenant_id(client: "Client", name_or_id: str | None) -> str | None:
    """Returns the id of the tenant that an option names. An id of a deleted tenant stays as it is, since its records
    outlive it. Raises NotFound for a name."""
    if name_or_id is None or name_or_id.startswith("ten_"):
        return name_or_id
    return tenant_of(client, name_or_id).id


def day_of(time: datetime | None) -> date | None:
    """Returns the day of an option such as `--from`; None for an option that was not given."""
    return None if time is None else time.date()


def in_seconds(amount: int | None, unit: int) -> int | None:
    """Returns an option's value, given in `HOUR` or `DAY`, in seconds; None for an option that was not given."""
    return None if amount is None else amount * unit


def confirm(question: str, *, yes: bool) -> None:
    """Asks the user to confirm an irreversible action, unless `yes` is set. Ends the command with the exit code for
    interruptions if the user declines."""
    try:
        confirmed = yes or typer.confirm(question, err=True)
    except typer.Abort:
        confirmed = False
    if not confirmed:
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(INTERRUPTED)
