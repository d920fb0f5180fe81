"""View of a generation: its images as they arrive, a dialog with the settings of an image, and the request as code."""

import json
from collections.abc import Callable

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.user import User
from difffit.models import Generation, Image
from difffit.requests import GenerationSettings

Render = Callable[[str, str, GenerationSettings], str]
"""Function that renders the request for a generation as code, from the service's address, the domain's id and the
settings."""
_ASK_SECONDS = 0.5


class Drawing:
    """Placeholders for a generation's images in the current container of the page. `show` fills them."""

    def __init__(self, user: User, generation: Generation) -> None:
        self.user, self.generation = user, generation
        self.places = [self._place(index) for index in range(generation.count)]
        self.show(generation)

    async def follow(self) -> None:
        """Polls the generation and shows its previews and images until it has succeeded. Raises JobFailed if it
        fails."""
        await self.user.api.generations.wait(self.generation.id, on_change=self.show, max_pause=_ASK_SECONDS)

    def show(self, generation: Generation) -> None:
        self.generation = generation
        for preview in generation.previews:  # ordered by step, so that the latest replaces earlier ones
            self._fill(preview.index, preview.url, f"{generation.class_name} at step {preview.step}")
        for image in generation.images:
            self._fill(image.index, image.url, f"{generation.class_name}, seed {image.seed}")

    def _place(self, index: int) -> ui.element:
        with ui.element("button").classes("shot") as button:
            button.props("type=button")
            button.props["aria-label"] = f"Settings of image {index + 1}, {self.generation.class_name}"
            with kit.box("picture waiting"):
                pass
        button.on("click", lambda: self._show_settings(index))
        return button

    def _fill(self, index: int, url: str, description: str) -> None:
        place = self.places[index]
        if place.default_slot.children and place.default_slot.children[0].props.get("src") == url:
            return
        place.clear()
        with place:
            kit.picture(url, description).props(remove="loading")

    def _show_settings(self, index: int) -> None:
        image = next((candidate for candidate in self.generation.images if candidate.index == index), None)
        if image is not None:
            show_settings(self.generation, image)


def show_settings(generation: Generation, image: Image) -> None:
    with kit.dialog("Settings of this image") as shown:
        kit.picture(image.url, generation.class_name, "picture large")
        facts = {"Class": generation.class_name, "Seed": str(image.seed), "Steps": str(generation.steps)}
        facts |= {"Guidance": f"{generation.guidance_scale:g}", "Sampler": generation.sampler}
        facts |= {"Size": f"{image.width} × {image.height}", "Generated": words.moment(generation.finished_at)}
        kit.facts(facts | {"Version": generation.adapter_id or "the base itself", "SHA-256": image.sha256})
        with kit.box("row end"):
            ui.link("Open the PNG", image.url, new_tab=True).classes("button link-button", remove="nicegui-link")
            kit.button("Close", shown.close, kind="primary")
    shown.open()


def as_curl(base: str, domain_id: str, body: GenerationSettings) -> str:
    return (
        f"curl {base}/v1/domains/{domain_id}/generations \\\n"
        '    -H "Authorization: Bearer $DIFFFIT_API_KEY" \\\n'
        '    -H "Content-Type: application/json" -H "Prefer: wait=30" \\\n'
        f"    -d {_quoted(json.dumps(body, ensure_ascii=False))}"
    )


def as_python(base: str, domain_id: str, body: GenerationSettings) -> str:
    settings = ", ".join(f"{name}={value!r}" for name, value in body.items())
    return (
        "from difffit import Client\n\n"
        f'with Client("{base}") as client:  # the key is in DIFFFIT_API_KEY\n'
        f'    pictures = client.generate("{domain_id}", {settings})\n'
        "    for picture in pictures:\n"
        '        picture.save("pictures")'
    )


def _quoted(text: str) -> str:
    """Returns the text in single quotes, as one argument of a POSIX shell command."""
    return "'" + text.replace("'", "'\\''") + "'"
