"""`difffit webhooks`."""

from typing import Annotated, Literal

import typer

from difffit.cli.arguments import LimitOption, YesOption, confirm
from difffit.cli.base import State, command
from difffit.cli.views import record, table

app = typer.Typer(help="Hear of events at an address of your own.", no_args_is_help=True)
WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Its id.")]
DeliveryArgument = Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id.")]
EventOption = Annotated[
    list[str] | None, typer.Option("--event", help="Such as finetune.succeeded; may be given several times.")
]
_FIELDS = ("id", "url", "events", "description", "status", "disabled_reason", "last_success_at", "created_at")
_DELIVERY = ("id", "webhook_id", "type", "status", "next_attempt_at", "created_at", "finished_at")


@command(app)
def create(
    state: State,
    url: Annotated[str, typer.Argument(metavar="URL", help="Begins with https://.")],
    event: EventOption = None,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
) -> None:
    """Create a webhook, for everything when no event is named. Its secret is shown this once."""
    issued = state.client.webhooks.create(url, event, description)
    state.show(issued, record(issued, "id", "url", "events", "secret"))


@command(app, "list")
def list_webhooks(state: State, limit: LimitOption = None) -> None:
    """List your webhooks, newest first."""
    found = list(state.client.webhooks.list(limit))
    columns = {
        "id": lambda one: one.id,
        "url": lambda one: one.url,
        "events": lambda one: one.events or "all",
        "status": lambda one: one.status,
        "last success": lambda one: one.last_success_at,
    }
    state.show(found, table(found, columns))


@command(app)
def get(state: State, webhook: WebhookArgument) -> None:
    """Show one webhook, and why it is disabled when it is."""
    found = state.client.webhooks.get(webhook)
    state.show(found, record(found, *_FIELDS))


@command(app)
def update(
    state: State,
    webhook: WebhookArgument,
    url: Annotated[str | None, typer.Option(help="Its new URL.")] = None,
    event: EventOption = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="It hears of everything.")] = False,
    description: Annotated[str | None, typer.Option(help="Its new description.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it hears of anything.")] = None,
) -> None:
    """Change a webhook, or enable or disable it."""
    changed = state.client.webhooks.update(
        webhook, url=url, events="all" if all_events else event, description=description, enabled=enabled
    )
    state.show(changed, record(changed, *_FIELDS))


@command(app)
def delete(state: State, webhook: WebhookArgument, yes: YesOption = False) -> None:
    """Delete a webhook with its deliveries."""
    found = state.client.webhooks.get(webhook)
    confirm(f"Delete the webhook to {found.url}?", yes=yes)
    state.client.webhooks.delete(webhook)
    state.show({"deleted": webhook}, f"Deleted {webhook}.")


@command(app)
def rotate(
    state: State,
    webhook: WebhookArgument,
    overlap: Annotated[int | None, typer.Option(min=0, help="Hours for which the old secret signs too.")] = None,
) -> None:
    """Give a webhook a new secret. It is shown this once."""
    seconds = None if overlap is None else overlap * 3600
    issued = state.client.webhooks.rotate(webhook, overlap_seconds=seconds)
    state.show(issued, record(issued, "id", "url", "secret"))


@command(app)
def test(state: State, webhook: WebhookArgument) -> None:
    """Send an event of the type webhook.test."""
    sent = state.client.webhooks.test(webhook)
    state.show(sent, record(sent, *_DELIVERY))


@command(app)
def deliveries(
    state: State,
    webhook: WebhookArgument,
    status: Annotated[
        Literal["pending", "succeeded", "failed"] | None, typer.Option(help="Of this status alone.")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """List what a webhook was told, newest first, and how the last attempt went."""
    found = list(state.client.webhooks.deliveries(webhook, limit, status=status))
    columns = {
        "id": lambda one: one.id,
        "type": lambda one: one.type,
        "status": lambda one: one.status,
        "attempts": lambda one: len(one.attempts),
        "answer": lambda one: one.attempts[-1].response_status if one.attempts else None,
        "reason": lambda one: one.attempts[-1].detail if one.attempts else None,
        "next": lambda one: one.next_attempt_at,
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def redeliver(state: State, webhook: WebhookArgument, delivery: DeliveryArgument) -> None:
    """Send an event again."""
    sent = state.client.webhooks.redeliver(webhook, delivery)
    state.show(sent, record(sent, *_DELIVERY))
