"""Page of a domain's versions, to compare their images side by side and to choose the active version."""

import asyncio

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.drawing import Drawing
from api.dashboard.user import MOST, TenantUser, User
from difffit.models import Adapter, Domain

_SHOWN = 8
_EACH = 4
_STEPS = 30


@ui.page("/domains/{id}/versions")
async def versions(user: TenantUser, id: str) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Versions"):
        adapters = [adapter async for adapter in user.api.adapters.list(id, MOST)]
        if not adapters:
            kit.empty("No versions yet", "Every successful fine-tune creates one.")
            return
        _Comparison(user, domain, adapters[:_SHOWN]).build()
        if len(adapters) > _SHOWN:
            _older(user, domain, adapters[_SHOWN:])


class _Comparison:
    def __init__(self, user: User, domain: Domain, adapters: list[Adapter]) -> None:
        self.user, self.domain, self.adapters = user, domain, adapters
        self.places: dict[str, ui.element] = {}

    def build(self) -> None:
        classes = list(self.adapters[0].class_names)
        with kit.card("Side by side", "The same class and seeds with every version."):
            if self.user.may_write:
                with kit.box("fields"):
                    self.class_name = kit.choice("Class", classes, classes[0])
                    self.seed = kit.number("First seed", 1, least=0, most=2**31)
                with kit.box("row"):
                    kit.button("Draw all", self.draw, kind="primary")
            with kit.box("versions"):
                for adapter in self.adapters:
                    self._version(adapter)

    def _version(self, adapter: Adapter) -> None:
        is_active = adapter.id == self.domain.active_adapter_id
        with kit.box(f"version {'now' if is_active else ''}") as element:
            element.props(f"data-version={adapter.version}")
            with kit.box("row spread"):
                kit.write(f"Version {adapter.version}", "h3")
                if is_active:
                    kit.badge("active")
                elif adapter.status == "ready":
                    _promote_button(self.user, self.domain, adapter)
                else:
                    kit.badge(adapter.status)
            self.places[adapter.id] = ui.element("div").classes("pair")
            origin = f"{adapter.method}, {words.size(adapter.size_bytes)}, {words.moment(adapter.created_at)}"
            kit.write(origin, "p", "small")
            with kit.box("row"):
                if adapter.finetune_id:
                    ui.link("Fine-tune", f"/finetunes/{adapter.finetune_id}")

    async def draw(self) -> None:
        await asyncio.gather(*(self._draw(adapter) for adapter in self.adapters if adapter.status == "ready"))

    async def _draw(self, adapter: Adapter) -> None:
        chosen = {"class_name": self.class_name.value, "seed": int(self.seed.value or 0), "adapter_id": adapter.id}
        generation = await self.user.api.generations.create(self.domain.id, count=_EACH, steps=_STEPS, **chosen)
        place = self.places[adapter.id]
        place.clear()
        with place:
            await Drawing(self.user, generation).follow()


def _promote_button(user: User, domain: Domain, adapter: Adapter) -> None:
    async def promote() -> None:
        await user.api.adapters.promote(domain.id, adapter.id)
        ui.navigate.reload()

    if user.may_write:
        button = kit.button("Make active", promote)
        button.props(f'aria-label="Make version {adapter.version} active"')


def _older(user: User, domain: Domain, adapters: list[Adapter]) -> None:
    def row(adapter: Adapter) -> list[kit.Cell]:
        def state() -> None:
            if adapter.id == domain.active_adapter_id:
                kit.badge("active")
            else:
                _promote_button(user, domain, adapter)

        return [f"Version {adapter.version}", words.moment(adapter.created_at), state]

    with kit.card("Older versions"):
        kit.table("Older versions", ("Version", "Created", ""), [row(version) for version in adapters])
