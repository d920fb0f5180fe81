"""Page of a domain's versions, to compare their images side by side and to choose the active version."""

import asyncio

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.drawing import Drawing
from api.dashboard.forms import Form, keep
from api.dashboard.frame import page, showing_problems
from api.dashboard.user import MOST, TenantUser, User
from difffit.errors import NotFound
from difffit.models import Adapter, Domain, Generation

_SHOWN = 8
_EACH = 4
_STEPS = 30


@page("/domains/{id}/versions")
async def versions(user: TenantUser, id: str, cursor: str = "", drawn: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Versions"):
        listed = await user.api.adapters.list(id, MOST).page(cursor or None)
        adapters = listed.data
        if not adapters:
            kit.empty("No versions yet", "Every successful fine-tune creates one.")
            return
        active_id = domain.active_adapter_id
        if active_id is not None and active_id not in {adapter.id for adapter in adapters[:_SHOWN]}:
            adapters = [adapter for adapter in adapters if adapter.id != active_id]
            adapters.insert(0, await user.api.adapters.get(active_id))
        comparison = _Comparison(user, domain, adapters[:_SHOWN])
        comparison.build()
        await comparison.restore(drawn)
        if len(adapters) > _SHOWN:
            _older(user, domain, adapters[_SHOWN:])
        kit.pager("versions", f"/domains/{id}/versions", cursor, listed.next_cursor)


class _Comparison:
    def __init__(self, user: User, domain: Domain, adapters: list[Adapter]) -> None:
        self.user, self.domain, self.adapters = user, domain, adapters
        self.places: dict[str, ui.element] = {}

    def build(self) -> None:
        classes = list(dict.fromkeys(name for adapter in self.adapters for name in adapter.class_names))
        with kit.card("Side by side", "The same class and seeds with every version."):
            if self.user.may_write:
                with kit.box("fields"):
                    self.class_name = kit.choice("Class", classes, classes[0])
                    self.seed = kit.number("First seed", 1, least=0, most=2**31)
                self.form = Form(class_name=self.class_name, seed=self.seed)
                self.form.keep()
                with kit.box("row"):
                    kit.button("Generate all", self.draw, kind="primary")
            with kit.box("versions"):
                for adapter in self.adapters:
                    self._version(adapter)

    async def restore(self, drawn: str) -> None:
        """Shows the images of an earlier comparison again, by the ids of its generations."""
        for id in drawn.split(",")[:_SHOWN] if drawn else []:
            try:
                generation = await self.user.api.generations.get(id)
            except NotFound:
                continue
            if generation.adapter_id in self.places:
                self._show(generation)

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
            self.places[adapter.id] = ui.element("div").classes("stack")
            origin = f"{adapter.method}, {words.size(adapter.size_bytes)}, {words.moment(adapter.created_at)}"
            kit.write(origin, "p", "small")
            with kit.box("row"):
                if adapter.finetune_id:
                    ui.link("Training details", f"/finetunes/{adapter.finetune_id}")
                if adapter.status == "ready":
                    ui.link("Generate with it", f"/domains/{self.domain.id}/playground?adapter_id={adapter.id}")
                if not is_active:
                    _delete_button(self.user, adapter)

    async def draw(self) -> None:
        if not self.form.is_valid():
            return
        ready = [adapter for adapter in self.adapters if adapter.status == "ready"]
        started = await asyncio.gather(*(self._draw(adapter) for adapter in ready))
        keep({"drawn": ",".join(filter(None, started))})

    async def _draw(self, adapter: Adapter) -> str | None:
        """Starts the generation with one version and returns its id, or None if the version cannot generate it."""
        place = self.places[adapter.id]
        place.clear()
        name = self.class_name.value
        with place, showing_problems():
            if name not in adapter.class_names:
                kit.muted(f"It has no class “{name}”.")
                return None
            settings = {"class_name": name, "seed": int(self.seed.value), "adapter_id": adapter.id}
            generation = await self.user.api.generations.create(self.domain.id, count=_EACH, steps=_STEPS, **settings)
            self._show(generation)
            return generation.id
        return None

    def _show(self, generation: Generation) -> None:
        with self.places[generation.adapter_id or ""]:
            drawing = Drawing(self.user, generation, "pair")
        kit.in_background(drawing.follow())


def _promote_button(user: User, domain: Domain, adapter: Adapter) -> None:
    async def promote() -> None:
        await user.api.adapters.promote(domain.id, adapter.id)
        kit.reload()

    if user.may_write:
        button = kit.button("Make active", promote)
        button.props(f'aria-label="Make version {adapter.version} active"')


def _delete_button(user: User, adapter: Adapter) -> None:
    async def delete() -> None:
        await user.api.adapters.delete(adapter.id)
        kit.reload()

    if user.may_write:
        kit.delete_button(f"version {adapter.version}", "Delete the version", "Its images stay.", delete)


def _older(user: User, domain: Domain, adapters: list[Adapter]) -> None:
    def row(adapter: Adapter) -> list[kit.Cell]:
        def state() -> None:
            with kit.box("row"):
                if adapter.status == "ready":
                    ui.link("Generate with it", f"/domains/{domain.id}/playground?adapter_id={adapter.id}")
                    _promote_button(user, domain, adapter)
                else:
                    kit.badge(adapter.status)
                _delete_button(user, adapter)

        return [f"Version {adapter.version}", words.moment(adapter.created_at), state]

    with kit.card("Older versions"):
        kit.table("Older versions", ("Version", "Created", ""), [row(version) for version in adapters])
