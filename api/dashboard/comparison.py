"""Comparison of a domain's versions by images of the same class and seeds, for the pages that show versions."""

import asyncio
from functools import partial

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.drawing import Drawing
from api.dashboard.forms import Form, form_dialog, keep
from api.dashboard.frame import showing_problems
from api.dashboard.receipts import show_receipt
from api.dashboard.texts import tr
from api.dashboard.user import User, or_none
from difffit.models import Adapter, Domain, Generation

MOST_COMPARED = 8
_EACH = 4
_STEPS = 30
_NAME_LENGTH, _NOTE_LENGTH = 200, 2000


class Comparison:
    """Versions of a domain next to each other, with a form that generates the same images with all of them."""

    def __init__(self, user: User, domain: Domain, adapters: list[Adapter]) -> None:
        self.user, self.domain, self.adapters = user, domain, adapters
        self.places: dict[str, ui.element] = {}

    def build(self) -> None:
        classes = list(dict.fromkeys(name for adapter in self.adapters for name in adapter.class_names))
        with kit.card(tr("Side by side"), tr("The same class and seeds with every version.")):
            if self.user.may_write:
                with kit.box("fields"):
                    self.class_name = kit.choice(tr("Class"), classes, classes[0])
                    self.seed = kit.number(tr("First seed"), 1, least=0, most=2**31)
                self.form = Form(class_name=self.class_name, seed=self.seed)
                self.form.keep()
                with kit.box("row"):
                    kit.button(tr("Generate all"), self._generate, kind="primary")
            with kit.box("versions"):
                for adapter in self.adapters:
                    self._version(adapter)

    async def restore(self, drawn: str) -> None:
        """Shows the images of an earlier comparison again, by the ids of its generations."""
        for id in drawn.split(",")[:MOST_COMPARED] if drawn else []:
            generation = await or_none(self.user.api.generations.get(id))
            if generation is not None and generation.adapter_id in self.places:
                self._show(generation)

    def _version(self, adapter: Adapter) -> None:
        is_active = adapter.id == self.domain.active_adapter_id
        with kit.box("version now" if is_active else "version") as element:
            element.props(f"data-version={adapter.version}")
            with kit.box("row spread"):
                kit.write(words.version(adapter), "h3")
                if is_active:
                    kit.badge("active")
                elif adapter.status == "ready":
                    promote_button(self.user, self.domain, adapter)
                else:
                    kit.badge(adapter.status)
            self.places[adapter.id] = ui.element("div").classes("stack")
            origin = f"{adapter.method}, {words.size(adapter.size_bytes)}, {words.moment(adapter.created_at)}"
            kit.write(origin, "p", "small")
            if adapter.learned_guidance is not None:
                kit.muted(
                    tr(
                        "Learned guidance up to {scale:g}: images take about a third less time.",
                        scale=adapter.learned_guidance,
                    )
                )
            if adapter.note:
                kit.muted(adapter.note)
            with kit.box("row"):
                if adapter.finetune_id:
                    ui.link(tr("Training details"), f"/finetunes/{adapter.finetune_id}")
                if adapter.status == "ready":
                    ui.link(tr("Generate with it"), f"/domains/{self.domain.id}/playground?adapter_id={adapter.id}")
                name = tr("version {version}", version=adapter.version)
                download = ui.link(tr("Download"), f"/versions/{adapter.id}/file")
                download.props("download").props["aria-label"] = tr("Download {name}", name=name)
                if self.user.may_write:
                    edit = kit.button(tr("Edit"), partial(_ask_to_edit, self.user, adapter), kind="quiet")
                    edit.props["aria-label"] = tr("Edit {name}", name=name)
                if not is_active:
                    delete_button(self.user, adapter)

    async def _generate(self) -> None:
        if not self.form.is_valid():
            return
        ready = [adapter for adapter in self.adapters if adapter.status == "ready"]
        started = await asyncio.gather(*(self._start(adapter) for adapter in ready))
        keep({"drawn": ",".join(filter(None, started))})

    async def _start(self, adapter: Adapter) -> str | None:
        """Starts the generation with one version and returns its id, or None if the version cannot generate it."""
        place = self.places[adapter.id]
        place.clear()
        name = self.class_name.value
        with place, showing_problems():
            if name not in adapter.class_names:
                kit.muted(tr("It has no class “{name}”.", name=name))
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


def promote_button(user: User, domain: Domain, adapter: Adapter) -> None:
    async def promote() -> None:
        await user.api.adapters.promote(domain.id, adapter.id)
        kit.reload()

    if user.may_write:
        button = kit.button(tr("Make active"), promote)
        button.props["aria-label"] = tr("Make version {version} active", version=adapter.version)


def delete_button(user: User, adapter: Adapter) -> None:
    async def delete() -> None:
        show_receipt(user, await user.api.adapters.delete(adapter.id), kit.reload)

    if user.may_write:
        kit.delete_button(
            tr("version {version}", version=adapter.version), tr("Delete the version"), tr("Its images stay."), delete
        )


def _ask_to_edit(user: User, adapter: Adapter) -> None:
    async def change() -> None:
        form = Form(name=name, note=note)
        if not form.is_valid():
            return
        with form.showing_problems():
            await user.api.adapters.update(adapter.id, name=(name.value or "").strip(), note=note.value or "")
            kit.reload()

    with form_dialog(tr("Edit version {version}", version=adapter.version), tr("Save"), change):
        name = kit.field(tr("Name"), adapter.name or "", most=_NAME_LENGTH).props("autofocus")
        note = kit.field(tr("Note"), adapter.note, lines=2, most=_NOTE_LENGTH)
