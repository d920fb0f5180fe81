"""Commands of `difffit webhooks`, with which the server sends events to a URL of yours."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import RenderableType

from difffit.cli.arguments import HOUR, LimitOption, YesOption, confirm, in_seconds
from difffit.cli.base import State, command
from difffit.cli.views import record, table

if TYPE_CHECKING:
    from difffit.models import Webhook, WebhookIssued

app = typer.Typer(help="Send events to a URL of yours.", no_args_is_help=True)
WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of the webhook.")]
DeliveryArgument = Annotated[str, typer.Argument(metavar="DELIVERY", help="Id of the delivery.")]
EventOption = Annotated[
    list[str] | None, typer.Option("--event", help="Event type, such as finetune.succeeded. Repeatable.")
]
NoEventsOption = Annotated[
    bool, typer.Option("--no-events", help="Send only the ends of generations that name this webhook.")
]
_FIELDS = ("id", "url", "description", "status", "disabled_reason", "last_success_at", "created_at")
_DELIVERY = ("id", "webhook_id", "url", "type", "status", "next_attempt_at", "created_at", "finished_at")


@command(app)
def create(
    state: State,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL that starts with https://.")],
    event: EventOption = None,
    no_events: NoEventsOption = False,
    description: Annotated[str | None, typer.Option(help="Free text.")] = None,
) -> None:
    """Create a webhook, for all events unless `--event` or `--no-events` is given. Its signing secret is shown only
    now."""
    issued = state.client.webhooks.create(url, [] if no_events else event, description)
    state.show(issued, record(issued, "id", "url", "secret", events=_events(issued)))


@command(app, "list")
def list_webhooks(state: State, limit: LimitOption = None) -> None:
    """List your webhooks, newest first."""
    webhooks = list(state.client.webhooks.list(limit))
    columns = {
        "id": lambda webhook: webhook.id,
        "url": lambda webhook: webhook.url,
        "events": _events,
        "status": lambda webhook: webhook.status,
        "last success": lambda webhook: webhook.last_success_at,
    }
    state.show(webhooks, table(webhooks, columns))


@command(app)
def get(state: State, webhook: WebhookArgument) -> None:
    """Show one webhook and, if it is disabled, the reason."""
    details = state.client.webhooks.get(webhook)
    state.show(details, _view(details))


@command(app)
def update(
    state: State,
    webhook: WebhookArgument,
    url: Annotated[str | None, typer.Option(help="New URL.")] = None,
    event: EventOption = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Send all events.")] = False,
    no_events: NoEventsOption = False,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Resume or stop sending events.")] = None,
) -> None:
    """Change a webhook, or enable or disable it."""
    events = "all" if all_events else [] if no_events else event
    changed = state.client.webhooks.update(webhook, url=url, events=events, description=description, enabled=enabled)
    state.show(changed, _view(changed))


@command(app)
def delete(state: State, webhook: WebhookArgument, yes: YesOption = False) -> None:
    """Delete a webhook and its deliveries."""
    details = state.client.webhooks.get(webhook)
    confirm(f"Delete the webhook to {details.url}?", yes=yes)
    state.client.webhooks.delete(webhook)
    state.show({"deleted": webhook}, f"Deleted {webhook}.")


@command(app)
def rotate(
    state: State,
    webhook: WebhookArgument,
    overlap: Annotated[int | None, typer.Option(min=0, help="Hours for which the old secret also signs.")] = None,
) -> None:
    """Give a webhook a new signing secret. The secret is shown only now."""
    issued = state.client.webhooks.rotate(webhook, overlap_seconds=in_seconds(overlap, HOUR))
    state.show(issued, record(issued, "id", "url", "secret"))


@command(app)
def test(state: State, webhook: WebhookArgument) -> None:
    """Send a test event of type webhook.test to a webhook."""
    sent = state.client.webhooks.test(webhook)
    state.show(sent, record(sent, *_DELIVERY))


@command(app)
def deliveries(
    state: State,
    webhook: WebhookArgument,
    status: Annotated[
        Literal["pending", "succeeded", "failed"] | None, typer.Option(help="List only deliveries with this status.")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """List the deliveries of a webhook, newest first, each with the result of its last attempt."""
    rows = list(state.client.webhooks.deliveries(webhook, limit, status=status))
    columns = {
        "id": lambda delivery: delivery.id,
        "type": lambda delivery: delivery.type,
        "status": lambda delivery: delivery.status,
        "attempts": lambda delivery: len(delivery.attempts),
        "answer": lambda delivery: delivery.attempts[-1].response_status if delivery.attempts else None,
        "reason": lambda delivery: delivery.attempts[-1].detail if delivery.attempts else None,
        "next": lambda delivery: delivery.next_attempt_at,
        "created": lambda delivery: delivery.created_at,
    }
    state.show(rows, table(rows, columns))


@command(app)
def redeliver(state: State, webhook: WebhookArgument, delivery: DeliveryArgument) -> None:
    """Send the event of a delivery again."""
    sent = state.client.webhooks.redeliver(webhook, delivery)
    state.show(sent, record(sent, *_DELIVERY))


def _view(webhook: "Webhook") -> RenderableType:
    return record(webhook, *_FIELDS, events=_events(webhook))


def _events(webhook: "Webhook | WebhookIssued") -> str:
    return "all" if webhook.events is None else ", ".join(webhook.events) or "none"
