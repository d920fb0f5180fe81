"""Page for generating images with a domain."""

from typing import get_args

from nicegui import ui

from api.dashboard import drawing, kit
from api.dashboard.domain import domain_frame, find
from api.dashboard.drawing import Drawing
from api.dashboard.forms import Form
from api.dashboard.frame import page
from api.dashboard.user import MOST, TenantUser, User
from difffit.errors import NotFound
from difffit.models import Adapter, Domain, Generation
from difffit.requests import GenerationSettings, Sampler, TimestepSpacing

_SAMPLER: Sampler = "dpmpp_2m"
_STEPS, _GUIDANCE = 20, 4.0
"""Settings of a new form, which are the API's defaults."""
_PREVIEWS = 3
_EARLIER = 12
_GUIDES = {1.0: "The version itself", 0.75: "Weaker: 75 %", 0.5: "Weaker: 50 %", 0.25: "Weaker: 25 %", 0.0: "The base"}
"""Scales of the adapter in the unconditional prediction, with their labels."""


@page("/domains/{id}/playground")
async def playground(user: TenantUser, id: str, adapter_id: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Playground"):
        versions = await _versions(user, domain, adapter_id)
        if not versions:
            kit.empty("No version yet", "Upload images, then train on them.")
            return
        earlier = [generation async for generation in user.api.generations.list(id, _EARLIER)]
        with kit.box("columns aside"):
            _Playground(user, domain, versions).build(earlier)


async def _versions(user: User, domain: Domain, chosen_id: str) -> dict[str, Adapter]:
    """Returns the domain's newest versions that can be used, by id, with the active one and the chosen one even if they
    are older."""
    newest = [version async for version in user.api.adapters.list(domain.id, MOST, status="ready")]
    versions = {version.id: version for version in newest}
    for id in filter(None, (domain.active_adapter_id, chosen_id)):
        if id not in versions:
            try:
                version = await user.api.adapters.get(id)
            except NotFound:
                continue
            if version.domain_id == domain.id and version.status == "ready":
                versions[id] = version
    return versions


class _Playground:
    def __init__(self, user: User, domain: Domain, versions: dict[str, Adapter]) -> None:
        self.user, self.domain, self.versions = user, domain, versions

    def build(self, earlier: list[Generation]) -> None:
        with kit.card("Generate"):
            self._form()
            if self.user.may_write:
                kit.button("Generate", self.generate, kind="primary")
            else:
                kit.muted("Your API key is read-only: it shows images, but cannot generate any.")
            with kit.box("row"):
                kit.button("As curl", lambda: self.show_code("curl", drawing.as_curl), kind="quiet")
                kit.button("As Python", lambda: self.show_code("Python", drawing.as_python), kind="quiet")
                kit.notifications_button()
        with kit.box("stack"):
            self.results = ui.element("div").classes("stack").props('aria-live="polite"')
            with self.results:
                for generation in earlier:
                    self._card(generation)
            self.hint = ui.element("div")
            if not earlier:
                with self.hint:
                    kit.empty("Your images appear here", "Choose a class, then press Generate.")

    def _form(self) -> None:
        active = self.versions.get(self.domain.active_adapter_id or "")
        names = {version.id: f"Version {version.version}" for version in self.versions.values()}
        if active is not None:
            names = {"": f"Active (version {active.version})", **names}
        self.adapter = kit.choice("Version", names, next(iter(names)))
        self.class_name = kit.choice("Class", [], None)
        with kit.box("fields two"):
            self.count = kit.number("Images", 4, least=1, most=64)
            self.seed = kit.number("First seed", 1, least=0, most=2**31)
            self.steps = kit.number("Steps", _STEPS, least=1, most=1000)
            self.guidance = kit.number("Guidance", _GUIDANCE, least=0, most=50, step=0.5, whole=False)
        self.guide = kit.choice("Guide against", _GUIDES, 1.0)
        self.sampler = kit.choice("Sampler", list(get_args(Sampler)), _SAMPLER)
        self.spacing = kit.choice("Timesteps", list(get_args(TimestepSpacing)), "trailing")
        Form(adapter_id=self.adapter).keep()
        self._offer_classes()
        self.adapter.on_value_change(self._offer_classes)
        self.form = Form(
            class_name=self.class_name,
            count=self.count,
            seed=self.seed,
            steps=self.steps,
            guidance_scale=self.guidance,
            guidance_adapter_scale=self.guide,
            sampler=self.sampler,
            timestep_spacing=self.spacing,
        )
        self.form.keep()

    def _offer_classes(self) -> None:
        """Offers the classes of the chosen version, since versions may have different ones."""
        version = self.versions[self.adapter.value or self.domain.active_adapter_id or ""]
        classes = list(version.class_names)
        chosen = self.class_name.value
        self.class_name.set_options(classes, value=chosen if chosen in classes else classes[0])

    def body(self) -> GenerationSettings:
        body: GenerationSettings = {
            "class_name": self.class_name.value,
            "count": int(self.count.value),
            "seed": int(self.seed.value),
            "steps": int(self.steps.value),
            "guidance_scale": float(self.guidance.value),
            "guidance_adapter_scale": self.guide.value,
            "sampler": self.sampler.value,
            "timestep_spacing": self.spacing.value,
        }
        return {**body, "adapter_id": self.adapter.value} if self.adapter.value else body

    async def generate(self) -> None:
        if not self.form.is_valid():
            return
        settings: GenerationSettings = {**self.body(), "previews": _PREVIEWS}
        with self.form.showing_problems():
            started = await self.user.api.generations.create(self.domain.id, **settings)
            self.hint.visible = False
            with self.results:
                card = self._card(started)
            card.move(target_index=0)
            ui.run_javascript(f"getHtmlElement({card.id}).scrollIntoView({{block: 'nearest'}})")  # below on a phone

    def _card(self, generation: Generation) -> ui.element:
        with kit.card() as card:
            card.props(f'data-generation="{generation.id}"')
            with kit.box("row spread"):
                kit.write(generation.class_name, "h2")
                version = self.versions.get(generation.adapter_id or "")
                settings = [f"version {version.version}"] if version else []
                settings += [f"seed {generation.seed}", f"{generation.steps} steps"]
                settings += [f"guidance {generation.guidance_scale:g}", generation.sampler]
                kit.write(", ".join(settings), "span", "small")
            drawn = Drawing(self.user, generation)
            if self.user.may_write:
                with kit.box("row end") as ended:
                    self._delete_button(generation, card)
                ended.bind_visibility_from(drawn.state, "visible", backward=lambda is_active: not is_active)
        if drawn.is_active:
            kit.in_background(drawn.follow())
        return card

    def _delete_button(self, generation: Generation, card: ui.element) -> None:
        async def delete() -> None:
            await self.user.api.generations.delete(generation.id)
            card.delete()

        name = f"the images of {generation.class_name}, seed {generation.seed}"
        kit.delete_button(name, "Delete the images", "Links to them stop working.", delete)

    def show_code(self, name: str, render: drawing.Render) -> None:
        if not self.form.is_valid():
            return
        with kit.dialog(f"The same request as {name}") as shown:
            kit.code(render(self.user.api.url, self.domain.id, self.body()))
            with kit.box("row end"):
                kit.button("Close", shown.close, kind="primary")
        shown.open()
