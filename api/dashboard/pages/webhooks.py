"""Page of a tenant's webhooks: list, create."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import show_secret
from api.dashboard.frame import frame, page
from api.dashboard.texts import tr
from api.dashboard.user import MOST, TenantUser, User
from api.dashboard.webhook_form import WebhookForm
from difffit.models import Webhook


@page("/webhooks")
async def webhooks(user: TenantUser) -> None:
    hint = tr("The service sends events, such as the end of a fine-tune, to a URL of yours.")
    with frame(user, tr("Webhooks"), section="Webhooks", hint=hint):
        listed = [webhook async for webhook in user.api.webhooks.list(MOST)]
        if user.may_write:
            with kit.box("row"):
                kit.button(tr("New webhook"), lambda: _ask_for_webhook(user), kind="primary")
        if listed:
            with kit.card():
                columns = ("URL", tr("Events"), tr("State"), tr("Last success"), tr("Created"))
                kit.table(tr("Webhooks, newest first"), columns, [_row(webhook) for webhook in listed])
        else:
            kit.empty(tr("No webhooks yet"), tr("Create one to be told when something ends."))


def _row(webhook: Webhook) -> list[kit.Cell]:
    def url() -> None:
        with kit.box("long"):
            ui.link(webhook.url, f"/webhooks/{webhook.id}")
            if webhook.description:
                kit.write(webhook.description, "div", "small")

    return [
        url,
        tr("all") if webhook.events is None else words.several(len(webhook.events), "type"),
        lambda: kit.badge(webhook.status),
        words.moment(webhook.last_success_at),
        words.moment(webhook.created_at),
    ]


def _ask_for_webhook(user: User) -> None:
    async def create(form: WebhookForm) -> None:
        issued = await user.api.webhooks.create(form.url, form.events, form.description)
        form.close()
        show_secret(tr("The secret that verifies the events"), issued.secret or "")

    WebhookForm(tr("New webhook"), tr("Create"), create)
