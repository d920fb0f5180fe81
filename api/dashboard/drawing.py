"""View of a generation: its images as they arrive, and the request as code."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import show_problem
from api.dashboard.texts import problem, tr
from api.dashboard.user import MOST, User
from api.dashboard.viewer import Viewer
from difffit import DiffFitError
from difffit.errors import Conflict, TooManyRequests
from difffit.events import ACTIVE
from difffit.models import Generation
from difffit.requests import GenerationSettings

Render = Callable[[str, str, GenerationSettings], str]
"""Function that renders the request for a generation as code, from the service's address, the domain's id and the
settings."""
_ASK_SECONDS, _MAX_ASK_SECONDS, _ASK_GROWTH = 0.5, 2.0, 1.1
"""Seconds between the first two polls of a generation, their maximum, and the factor by which they grow."""


class Drawing:
    """A generation's images, its progress and its end, in the current container of the page. `follow` keeps them up to
    date; `grid` is the style of the grid of images."""

    def __init__(self, user: User, generation: Generation, grid: str = "pictures") -> None:
        self.user, self.generation = user, generation
        self.client = ui.context.client
        self.running_since: tuple[float, float] | None = None
        with kit.box(grid) as self.grid:
            self.places = [self._place(index) for index in range(generation.count)]
        with kit.box("row") as self.state:
            self.line = kit.muted("").props("role=status")
            if user.may_write:
                self.cancel_button = kit.button(tr("Cancel"), self._cancel)
        self.problem = ui.element("div")
        self.show(generation)

    @property
    def is_active(self) -> bool:
        return self.generation.status in ACTIVE

    async def follow(self) -> None:
        """Polls the generation, and shows its queue, previews and images until it ends."""
        pause = _ASK_SECONDS
        while self.is_active and not self.grid.is_deleted:
            await asyncio.sleep(pause)
            pause = min(pause * _ASK_GROWTH, _MAX_ASK_SECONDS)
            try:
                generation = await self.user.api.generations.get(self.generation.id)
                queue = await self._queue(pause) if generation.status == "queued" else ""
            except TooManyRequests as error:
                pause = max(pause, error.retry_after or 0)
                continue
            except DiffFitError as error:
                with self.problem:
                    show_problem(error)
                return
            self.show(generation, queue)
            if not self.is_active:
                with self.client:
                    kit.ended(f"{generation.class_name}: {tr(generation.status)}")

    def show(self, generation: Generation, queue: str = "") -> None:
        self.generation = generation
        for preview in generation.previews:  # ordered by step, so that the latest replaces earlier ones
            self._fill(
                preview.index,
                preview.url,
                tr("{class_name} at step {step}", class_name=generation.class_name, step=preview.step),
            )
        for image in generation.images:
            self._fill(
                image.index,
                image.url,
                tr("{class_name}, seed {seed}", class_name=generation.class_name, seed=image.seed),
            )
        self.state.visible = self.is_active
        if self.is_active:
            is_cancelling = generation.cancel_requested_at is not None
            self.line.text = tr("Cancelling after the current step.") if is_cancelling else queue or self._progress()
            return
        self.grid.visible = bool(generation.images or generation.previews)
        self.problem.clear()
        with self.problem:
            if generation.error:
                code, detail = generation.error.code, generation.error.detail
                with kit.box("problem") as element:
                    element.props("role=alert")
                    kit.write(problem(code, detail))
                    kit.original(code, detail)
            elif generation.expired_at:
                kit.muted(
                    tr("The images were kept until {expired_at}.", expired_at=words.moment(generation.expired_at))
                )
            elif generation.status != "succeeded":
                kit.muted(f"{tr(generation.status).capitalize()}.")

    def _progress(self) -> str:
        """Returns the finished percentage, with an estimate of the remaining time from the progress since the first
        poll of the running generation."""
        progress = self.generation.progress
        if self.generation.status == "queued":
            return tr("In the queue.")
        now = time.monotonic()
        since, at_first = self.running_since = self.running_since or (now, progress)
        if progress <= at_first:
            return tr("{progress:.0%} done", progress=progress)
        left = (1 - progress) * (now - since) / (progress - at_first)
        return tr("{progress:.0%} done, about {left} left", progress=progress, left=words.duration(left))

    async def _queue(self, pause: float) -> str:
        """Returns the place in the domain's queue. If the generation has been waiting for long, also whether a worker
        runs at all."""
        if pause == _MAX_ASK_SECONDS and (await self.user.api.ready()).workers == 0:
            return tr(kit.NO_WORKER)
        queued = self.user.api.generations.list(self.generation.domain_id, MOST, status="queued")
        ahead = sum([other.created_at < self.generation.created_at async for other in queued])
        return (
            tr("In the queue: {requests} of this domain ahead.", requests=words.several(ahead, "request"))
            if ahead
            else tr("In the queue.")
        )

    async def _cancel(self) -> None:
        with suppress(Conflict):  # it has ended meanwhile, which the next poll shows
            self.show(await self.user.api.generations.cancel(self.generation.id))

    def _place(self, index: int) -> ui.element:
        with ui.element("button").classes("shot") as button:
            button.props("type=button")
            button.props["aria-label"] = tr(
                "Settings of image {index}, {class_name}", index=index + 1, class_name=self.generation.class_name
            )
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

    async def _show_settings(self, index: int) -> None:
        ids = [image.id for image in self.generation.images]
        place = next((place for place, image in enumerate(self.generation.images) if image.index == index), None)
        if place is not None:
            await Viewer(self.user, ids).open(place)


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
