"""Form for a webhook's URL, events and description."""

from collections.abc import Awaitable, Callable

from nicegui import ui

from api.dashboard import kit
from api.dashboard.forms import Form, form_dialog
from api.dashboard.texts import tr
from difffit.models import Webhook

EVENTS = (
    *("dataset.ready", "dataset.rejected", "finetune.succeeded", "finetune.failed", "finetune.cancelled"),
    *("generation.succeeded", "generation.failed", "generation.cancelled"),
    *("adapter.created", "adapter.promoted", "adapter.quarantined"),
)
"""Types of events that a webhook can be for."""
_URL_LENGTH, _DESCRIPTION_LENGTH = 2000, 2000


class WebhookForm:
    """Dialog with a webhook's fields. Its button calls `submit` with the form if all fields are valid."""

    def __init__(
        self, title: str, verb: str, submit: Callable[["WebhookForm"], Awaitable[None]], webhook: Webhook | None = None
    ) -> None:
        async def send() -> None:
            fields = Form(url=self._url, description=self._description)
            if fields.is_valid():
                with fields.showing_problems():
                    await submit(self)

        chosen = webhook.events if webhook else None
        with form_dialog(title, verb, send) as asked:
            self.close = asked.close
            self._url = kit.field(
                "URL",
                webhook.url if webhook else "",
                placeholder="https://example.com/hooks",
                hint=tr("Starts with https:// and leads to a public address."),
                needed=tr("Enter a URL."),
                most=_URL_LENGTH,
            ).props("autofocus")
            description = webhook.description if webhook else ""
            self._description = kit.field(tr("Description"), description, most=_DESCRIPTION_LENGTH)
            with kit.box("choices", "fieldset"):
                kit.write(tr("Events"), "legend")
                kit.muted(tr("None chosen: all events, also those of later releases."))
                self._events = {name: ui.checkbox(name, value=name in (chosen or ())) for name in EVENTS}

    @property
    def url(self) -> str:
        return (self._url.value or "").strip()

    @property
    def description(self) -> str:
        return self._description.value or ""

    @property
    def events(self) -> list[str] | None:
        """Chosen types of events; None for all."""
        return [name for name, checkbox in self._events.items() if checkbox.value] or None
