"""Dialog that shows generated images one by one, each with its settings."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse
from nicegui import app, ui

from api.dashboard import kit, words
from api.dashboard.forms import address_text
from api.dashboard.texts import tr
from api.dashboard.user import User, get_tenant, or_none
from difffit.models import Generation, Image

_REUSED = (
    *("class_name", "steps", "adapter_scale", "guidance_scale", "guidance_adapter_scale", "sampler", "eta"),
    "timestep_spacing",
)
"""Settings of a generation that the playground takes from its address."""


class Viewer:
    """Dialog with one of several images, given by their ids. Buttons and the arrow keys show the image before or after
    it."""

    def __init__(self, user: User, ids: Sequence[str]) -> None:
        self.user, self.ids = user, ids

    async def open(self, index: int) -> None:
        with kit.dialog(tr("Image details")) as shown, kit.box("stack") as element:
            self.content = ui.element("div").classes("stack")
            with kit.box("row") as self.links:
                self.reuse = kit.link_button(tr("Use these settings"), "#")
                self.png = ui.link(tr("Open the PNG"), "#", new_tab=True)
                self.png.classes("button link-button", remove="nicegui-link")
            with kit.box("row spread"):
                self._neighbours(element)
                kit.button(tr("Close"), shown.close, kind="primary").props("autofocus")
        await self._show(index)
        shown.open()

    def _neighbours(self, element: ui.element) -> None:
        with kit.box("row") as buttons:
            for label, key, step in ((tr("Previous"), "left", -1), (tr("Next"), "right", 1)):

                async def move(step: int = step) -> None:
                    await self._show((self.index + step) % len(self.ids))

                kit.button(label, move)
                element.on(f"keydown.{key}", move)
        buttons.visible = len(self.ids) > 1

    async def _show(self, index: int) -> None:
        self.index = index
        generation_id, _, number = self.ids[index].partition("/")
        generation = await or_none(self.user.api.generations.get(generation_id))
        images = generation.images if generation else []
        image = next((image for image in images if str(image.index) == number), None)
        version = await _versions(self.user, generation) if generation else ""
        if self.index != index:
            return  # the user has moved on meanwhile
        self.content.clear()
        self.links.visible = image is not None
        with self.content:
            kit.write(tr("{index} of {count}", index=index + 1, count=len(self.ids)), "p", "small").props("role=status")
            if generation is None or image is None:
                kit.muted(tr("This image has been deleted."))
                return
            _details(generation, image, version)
            self.reuse.props["href"] = playground(generation, image)
            self.png.props["href"] = f"/images/{generation.id}/{image.index}"


def _details(generation: Generation, image: Image, version: str) -> None:
    kit.picture(
        image.url, tr("{class_name}, seed {seed}", class_name=generation.class_name, seed=image.seed), "picture large"
    )
    facts = {tr("Class"): generation.class_name, tr("Seed"): str(image.seed), tr("Steps"): str(generation.steps)}
    facts |= {tr("Strength"): f"{generation.adapter_scale:g}", tr("Guidance"): words.guidance(generation)}
    if generation.guidance_scale != 1 and generation.guidance_adapter_scale != 1:
        facts[tr("Guided against")] = f"{generation.guidance_adapter_scale:.0%}"
    if generation.guidance_scale != 1:
        facts[tr("Guided noise levels")] = "{} - {}".format(*generation.guidance_interval)
    facts |= {tr("Sampler"): generation.sampler, tr("Timesteps"): generation.timestep_spacing}
    facts |= {tr("Size"): f"{image.width} × {image.height}", tr("Generated"): words.moment(generation.finished_at)}
    label = {tr("Label"): image.label} if image.label else {}
    kit.facts(facts | {tr("Version"): version} | label | {"SHA-256": image.sha256})


def playground(generation: Generation, image: Image) -> str:
    """Returns the address of the playground whose form has the settings of an image."""
    settings = {name: address_text(getattr(generation, name)) for name in _REUSED}
    low, high = map(str, generation.guidance_interval)
    settings |= {"guided_from": low, "guided_to": high}
    settings |= {"seed": str(image.seed), "count": "1", "adapter_id": generation.adapter_id or "base"}
    if generation.mix_adapter_id is not None:
        weight = address_text(generation.mix_weight)
        settings |= {"mix_adapter_id": generation.mix_adapter_id, "mix_weight": weight}
    return kit.with_query(f"/domains/{generation.domain_id}/playground", settings)


async def version_name(user: User, adapter_id: str | None, domain_id: str | None = None) -> str:
    """Returns the name of the version that a generation used. A deleted version is named by its id, and a version of
    another domain than `domain_id`, if given, also by its domain."""
    if adapter_id is None:
        return tr("Base model")
    adapter = await or_none(user.api.adapters.get(adapter_id))
    if adapter is None or domain_id in (None, adapter.domain_id):
        return words.version(adapter) if adapter else adapter_id
    domain = await or_none(user.api.domains.get(adapter.domain_id))
    return words.version(adapter, domain.name if domain else "")


async def _versions(user: User, generation: Generation) -> str:
    """Returns the name of the version that a generation used, with that of the version that was mixed into it."""
    version = await version_name(user, generation.adapter_id)
    if generation.mix_adapter_id is None:
        return version
    other = await version_name(user, generation.mix_adapter_id, generation.domain_id)
    return f"{version}, {words.mix(generation, other)}"


@app.get("/images/{id}/{index}", include_in_schema=False)
async def image(request: Request, id: str, index: int, user: Annotated[User, Depends(get_tenant)]) -> RedirectResponse:
    """Redirects to a signed URL of an image. Signed URLs expire, while a page with links may stay open for longer."""
    generation = await or_none(user.api.generations.get(id))
    url = next((image.url for image in generation.images if image.index == index), None) if generation else None
    return RedirectResponse(url or f"{request.scope['root_path']}/missing-image", 303)
