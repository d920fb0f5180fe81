"""Tour of the first steps: a domain of sample data, and a panel on its pages that leads from the images to the first
generated image. Only users who have asked for the tour see it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from nicegui import ui

from api.dashboard import kit
from api.dashboard.texts import tr
from api.dashboard.user import User
from difffit import DiffFitError
from difffit.events import ACTIVE
from difffit.models import Domain

_NAME, _DESCRIPTION = "OpenMoji sample", "Sample data: drawings of OpenMoji (openmoji.org), CC BY-SA 4.0."
_STEPS = ("Check the images", "Train a version", "Generate images")
_TRAINING = {"steps": "150", "batch_size": "16"}
"""Settings of the tour's training, which is shorter than the default: it should end while the user watches."""
_ASK_SECONDS = 2.0


async def begin(user: User) -> None:
    """Opens the tour in the domain of sample data, which is created unless it exists."""
    named = user.api.domains.list(name=_NAME)
    domain = await anext((domain async for domain in named if domain.name == _NAME), None)
    if domain is None:
        domain = await user.api.domains.create(_NAME, _DESCRIPTION)
    if await anext(user.api.datasets.list(domain.id, 1), None) is None:
        await user.api.datasets.sample(domain.id)
    user.session.tours[domain.id] = True
    ui.navigate.to(f"/domains/{domain.id}/images")


def show_tour(user: User, domain: Domain) -> None:
    """Adds the tour's panel to a page of the domain, if the user has begun the tour there."""
    if domain.id in user.session.tours:
        kit.in_background(_Tour(user, domain.id).follow())


@dataclass(frozen=True)
class _Place:
    """Place in the tour, with a link to the page where it continues."""

    step: int
    """Index of the current step; the number of steps at the end of the tour."""
    text: str
    label: str
    target: str


class _Tour:
    def __init__(self, user: User, domain_id: str) -> None:
        self.user, self.domain_id = user, domain_id
        request = ui.context.client.request
        self.path = request.url.path.removeprefix(request.scope["root_path"])
        with kit.box("tour", "section") as self.panel:
            self.panel.props["aria-label"] = tr("First steps")
            with kit.box("row spread"):
                kit.write(tr("First steps"), "h2")
                self.dismiss = kit.button(tr("Dismiss"), lambda: self._open(False), kind="quiet")
            with kit.box("tour-steps", "ol"):
                self.steps = [kit.write(tr(name), "li") for name in _STEPS]
            self.line = kit.muted("").props("role=status")
            self.link = kit.link_button("", "#", kind="primary")
        self.reopen = kit.button(tr("Show the first steps"), lambda: self._open(True), kind="quiet")
        self._show_panel()

    async def follow(self) -> None:
        """Shows the tour's place, again and again until the tour ends or the page is closed."""
        place = None
        while not self.panel.is_deleted and (place is None or place.step < len(_STEPS)):
            with suppress(DiffFitError):  # such as a lost connection: the next try may succeed
                place = await self._place()
                self._show(place)
            await asyncio.sleep(_ASK_SECONDS)

    async def _place(self) -> _Place:
        api, id, path = self.user.api, self.domain_id, f"/domains/{self.domain_id}"
        dataset = await anext(api.datasets.list(id, 1), None)
        if dataset is None or dataset.status != "ready":
            return _Place(
                0,
                tr("The service checks 160 drawings in 8 classes."),
                tr("Go to the images"),
                f"{path}/images",
            )
        if await anext(api.adapters.list(id, 1, status="ready"), None) is None:
            finetune = await anext(api.finetunes.list(id, 1), None)
            if finetune is not None and finetune.status in ACTIVE:
                text = tr("The base model learns the drawings. Without a GPU, this takes some minutes.")
                return _Place(1, text, tr("Watch the training"), f"/finetunes/{finetune.id}")
            training = kit.with_query(f"{path}/training", {"dataset_id": dataset.id, **_TRAINING})
            return _Place(
                1, tr("Let the base model learn the drawings: start the training."), tr("Go to the training"), training
            )
        if await anext(api.generations.list(id, 1, status="succeeded"), None) is None:
            text = tr("The version draws in the style that it has learned. Choose a class, then press Generate.")
            return _Place(2, text, tr("Go to the playground"), f"{path}/playground")
        text = tr("Your first images are there. Continue with a domain of your own images.")
        return _Place(3, text, tr("Go to the domains"), "/domains")

    def _show(self, place: _Place) -> None:
        for index, step in enumerate(self.steps):
            step.classes(remove="done current").classes("done" if index < place.step else "")
            step.props(remove="aria-current")
            if index == place.step:
                step.classes("current").props("aria-current=step")
        self.line.text = place.text
        self.link.text, self.link.props["href"] = place.label, place.target
        self.link.visible = place.target.partition("?")[0] != self.path

    def _open(self, is_open: bool) -> None:
        self.user.session.tours[self.domain_id] = is_open
        self._show_panel()
        focused = self.dismiss if is_open else self.reopen
        ui.run_javascript(f"getHtmlElement({focused.id}).focus()")

    def _show_panel(self) -> None:
        is_open = self.user.session.tours[self.domain_id]
        self.panel.visible, self.reopen.visible = is_open, not is_open
