"""Page of one webhook: its settings and its deliveries."""

import json
from typing import Literal

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import show_secret
from api.dashboard.frame import frame, load, page
from api.dashboard.lists import pager
from api.dashboard.texts import problem, tr
from api.dashboard.user import TenantUser, User
from api.dashboard.webhook_form import WebhookForm
from difffit.models import Delivery, Webhook

_CRUMBS = {"Webhooks": "/webhooks"}
_PAGE = 20
_ASK_SECONDS = 2.0


@page("/webhooks/{id}")
async def webhook(user: TenantUser, id: str, cursor: str = "") -> None:
    details = await load(user, user.api.webhooks.get(id), tr("Webhook"), section="Webhooks", crumbs=_CRUMBS)
    if details is None:
        return
    with frame(user, tr("Webhook"), section="Webhooks", crumbs=_CRUMBS, hint=details.url):
        with kit.card():
            _settings(details)
            if user.may_write:
                _actions(user, details)
        listed = await user.api.webhooks.deliveries(id, _PAGE).page(cursor or None)
        with kit.card(
            tr("Deliveries"), tr("Events of the last 30 days. A failed delivery is repeated for about a day.")
        ):
            if listed.data:
                columns = (
                    tr("Time"),
                    tr("Event"),
                    tr("State"),
                    tr("Attempts"),
                    tr("Last attempt"),
                    tr("Next attempt"),
                    "",
                )
                kit.table(tr("Deliveries, newest first"), columns, [_row(user, delivery) for delivery in listed.data])
                if listed.data[0].status == "pending" and not listed.data[0].attempts:
                    _reload_when_tried(user, listed.data[0])
            else:
                kit.muted(tr("No deliveries yet. Send a test event to try the URL."))
        pager("deliveries", f"/webhooks/{id}", listed.next_cursor)


def _reload_when_tried(user: User, delivery: Delivery) -> None:
    async def look() -> None:
        if (await user.api.webhooks.delivery(delivery.webhook_id, delivery.id)).attempts:
            waiting.cancel()
            kit.reload()

    waiting = ui.timer(_ASK_SECONDS, look)


def _settings(webhook: Webhook) -> None:
    with kit.box("row"):
        kit.badge(webhook.status)
        if webhook.disabled_reason:
            kit.muted(problem(webhook.disabled_reason.code, webhook.disabled_reason.detail))
    facts = {tr("Events"): tr("all") if webhook.events is None else ", ".join(webhook.events)}
    facts |= {tr("Description"): webhook.description} if webhook.description else {}
    facts |= {
        tr("Last success"): words.moment(webhook.last_success_at),
        tr("Created"): words.moment(webhook.created_at),
    }
    kit.facts(facts)


def _actions(user: User, webhook: Webhook) -> None:
    is_enabled = webhook.status == "enabled"

    async def test() -> None:
        await user.api.webhooks.test(webhook.id)
        kit.reload()

    async def toggle() -> None:
        await user.api.webhooks.update(webhook.id, enabled=not is_enabled)
        kit.reload()

    async def rotate() -> None:
        issued = await user.api.webhooks.rotate(webhook.id)
        show_secret(tr("The new secret"), issued.secret or "")

    async def delete() -> None:
        await user.api.webhooks.delete(webhook.id)
        ui.navigate.to("/webhooks")

    def ask_to_rotate() -> None:
        detail = tr("A new secret replaces it. For a day, events are signed with both.")
        kit.confirm(tr("Rotate the secret?"), detail, tr("Rotate"), rotate)

    with kit.box("row"):
        if is_enabled:
            kit.button(tr("Send a test event"), test, kind="primary")
        kit.button(tr("Edit"), lambda: _ask_to_edit(user, webhook))
        kit.button(tr("Disable") if is_enabled else tr("Enable"), toggle)
        kit.button(tr("Rotate the secret"), ask_to_rotate)
        kit.delete_button(tr("this webhook"), tr("Delete the webhook"), tr("Its deliveries are deleted too."), delete)


def _ask_to_edit(user: User, webhook: Webhook) -> None:
    async def change(form: WebhookForm) -> None:
        events: list[str] | Literal["all"] = form.events or "all"
        await user.api.webhooks.update(webhook.id, url=form.url, events=events, description=form.description)
        kit.reload()

    WebhookForm(tr("Edit the webhook"), tr("Save"), change, webhook)


def _row(user: User, delivery: Delivery) -> list[kit.Cell]:
    last = delivery.attempts[-1] if delivery.attempts else None
    outcome = ""
    if last is not None and last.response_status is not None:
        outcome = tr("Answered {status}", status=last.response_status)
    elif last is not None:
        outcome = problem(last.code or "", last.detail or "")

    async def repeat() -> None:
        await user.api.webhooks.redeliver(delivery.webhook_id, delivery.id)
        kit.reload()

    async def show() -> None:
        details = await user.api.webhooks.delivery(delivery.webhook_id, delivery.id)
        with kit.dialog(tr("Event {type}", type=delivery.type)) as shown:
            kit.code(json.dumps(details.payload, indent=2, ensure_ascii=False))
            with kit.box("row end"):
                kit.button(tr("Close"), shown.close, kind="primary").props("autofocus")
        shown.open()

    def actions() -> None:
        with kit.box("row"):
            kit.button(tr("Show"), show, kind="quiet").props["aria-label"] = tr("Show the event {id}", id=delivery.id)
            if user.may_write:
                kit.button(tr("Send again"), repeat, kind="quiet").props["aria-label"] = tr(
                    "Send {id} again", id=delivery.id
                )

    return [
        words.moment(delivery.created_at),
        delivery.type,
        lambda: kit.badge(delivery.status),
        words.count(len(delivery.attempts)),
        lambda: kit.write(outcome, "span", "long"),
        words.moment(delivery.next_attempt_at, "none"),
        actions,
    ]
