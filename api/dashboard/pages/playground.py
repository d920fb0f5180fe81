"""Page for generating images with a domain."""

from typing import get_args

from nicegui import ui

from api.dashboard import drawing, kit
from api.dashboard.domain import domain_frame, find
from api.dashboard.drawing import Drawing
from api.dashboard.frame import show_problem
from api.dashboard.user import MOST, TenantUser, User
from difffit.errors import JobFailed
from difffit.models import Adapter, Domain, Generation
from difffit.requests import GenerationSettings, Sampler, TimestepSpacing

_PREVIEWS = 3
_EARLIER = 12
_GUIDES = {1.0: "The version itself", 0.75: "Weaker: 75 %", 0.5: "Weaker: 50 %", 0.25: "Weaker: 25 %", 0.0: "The base"}
"""Scales of the adapter in the unconditional prediction, with their labels."""


@ui.page("/domains/{id}/playground")
async def playground(user: TenantUser, id: str) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Playground"):
        versions = [version async for version in user.api.adapters.list(id, MOST)]
        if domain.active_adapter_id is None or not versions:
            kit.empty("No version yet", "Upload images, then train on them.")
            return
        earlier = [generation async for generation in user.api.generations.list(id, _EARLIER)]
        with kit.box("columns aside"):
            _Playground(user, domain, versions).build(earlier)


class _Playground:
    def __init__(self, user: User, domain: Domain, versions: list[Adapter]) -> None:
        self.user, self.domain, self.versions = user, domain, versions

    def build(self, earlier: list[Generation]) -> None:
        active_id = self.domain.active_adapter_id
        active = next((version for version in self.versions if version.id == active_id), self.versions[0])
        with kit.card("Draw"):
            classes = list(active.class_names)
            self.class_name = kit.choice("Class", classes, classes[0])
            with kit.box("fields two"):
                self.count = kit.number("Images", 4, least=1, most=64)
                self.seed = kit.number("First seed", 1, least=0, most=2**31)
                self.steps = kit.number("Steps", 50, least=1, most=1000)
                self.guidance = kit.number("Guidance", 4.0, least=0, most=50, step=0.5)
                self.guide = kit.choice("Guide against", _GUIDES, 1.0)
            samplers = list(get_args(Sampler))
            self.sampler = kit.choice("Sampler", samplers, "ddim")
            spacings = list(get_args(TimestepSpacing))
            self.spacing = kit.choice("Timesteps", spacings, "trailing")
            names = {each.id: f"Version {each.version}" for each in self.versions if each.status == "ready"}
            self.adapter = kit.choice("Version", {"": f"Active ({active.version})", **names}, "")
            if self.user.may_write:
                kit.button("Draw", self.draw, kind="primary")
            with kit.box("row"):
                kit.button("As curl", lambda: self.show_code("curl", drawing.as_curl), kind="quiet")
                kit.button("As Python", lambda: self.show_code("Python", drawing.as_python), kind="quiet")
        with kit.box("stack"):
            self.results = ui.element("div").classes("stack").props('aria-live="polite"')
            with self.results:
                for generation in earlier:
                    self._card(generation)
            if not earlier:
                self.hint = ui.element("div")
                with self.hint:
                    kit.empty("Your images appear here", "Choose a class, then press Draw.")

    def body(self) -> GenerationSettings:
        body: GenerationSettings = {
            "class_name": self.class_name.value,
            "count": int(self.count.value or 1),
            "seed": int(self.seed.value or 0),
            "steps": int(self.steps.value or 1),
            "guidance_scale": float(self.guidance.value or 0),
            "guidance_adapter_scale": self.guide.value,
            "sampler": self.sampler.value,
            "timestep_spacing": self.spacing.value,
        }
        return {**body, "adapter_id": self.adapter.value} if self.adapter.value else body

    async def draw(self) -> None:
        settings: GenerationSettings = {**self.body(), "previews": _PREVIEWS}
        started = await self.user.api.generations.create(self.domain.id, **settings)
        if hasattr(self, "hint"):
            self.hint.visible = False
        with self.results:
            card, drawn = self._card(started)
        card.move(target_index=0)
        try:
            await drawn.follow()
        except JobFailed as error:
            with card:
                show_problem(error)

    def _card(self, generation: Generation) -> tuple[ui.element, Drawing]:
        with kit.card() as card:
            card.props(f'data-generation="{generation.id}"')
            with kit.box("row spread"):
                kit.write(generation.class_name, "h2")
                settings = f"seed {generation.seed}, {generation.steps} steps, guidance {generation.guidance_scale:g}"
                kit.write(f"{settings}, {generation.sampler}", "span", "small")
            with kit.box("pictures"):
                drawn = Drawing(self.user, generation)
        return card, drawn

    def show_code(self, name: str, render: drawing.Render) -> None:
        with kit.dialog(f"The same request as {name}") as shown:
            kit.code(render(self.user.api.url, self.domain.id, self.body()))
            with kit.box("row end"):
                kit.button("Close", shown.close, kind="primary")
        shown.open()
