"""Page for generating images with a domain."""

from typing import get_args

from nicegui import ui

from api.dashboard import drawing, kit, words
from api.dashboard.domain import domain_frame, find, usable_versions
from api.dashboard.drawing import Drawing
from api.dashboard.forms import Form
from api.dashboard.frame import page
from api.dashboard.texts import tr, tr_all
from api.dashboard.user import MOST, TenantUser, User, or_none
from difffit.models import Adapter, Domain, Generation
from difffit.requests import GENERATION_DEFAULTS, GenerationSettings, Sampler, TimestepSpacing

_SAMPLER: Sampler = "dpmpp_2m"
_STEPS = 20
"""The API's defaults, which its schema does not have, since they depend on other settings."""
_NOISY_SAMPLER: Sampler = "ddim"
"""Sampler that takes `eta`."""
_MAX_STRENGTH, _MAX_GUIDANCE, _MAX_SEED = 1.5, 50, 2**53 - 1
_HIGHEST_LEVEL = 999
_WEIGHT = 0.5
_PREVIEWS = 3
_EARLIER = 12
_GUIDES = {
    "": "As recommended",
    1.0: "The version itself",
    0.75: "Weaker: 75 %",
    0.5: "Weaker: 50 %",
    0.25: "Weaker: 25 %",
    0.0: "The base",
}
"""Scales of the adapter in the unconditional prediction, with their labels. Without one, the API chooses it."""


@page("/domains/{id}/playground")
async def playground(user: TenantUser, id: str, adapter_id: str = "", mix_adapter_id: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Playground"):
        versions = await usable_versions(user, domain, adapter_id)
        if not versions:
            kit.empty(tr("No version yet"), tr("Upload images, then train on them."))
            return
        earlier = [generation async for generation in user.api.generations.list(id, _EARLIER)]
        mixable = await _mixable(user, domain, versions, mix_adapter_id)
        with kit.box("columns aside"):
            _Playground(user, domain, versions, mixable).build(earlier)


async def _mixable(
    user: User, domain: Domain, versions: dict[str, Adapter], chosen_id: str
) -> dict[str, tuple[Adapter, str]]:
    """Returns the versions that can be mixed with another one, and their names, by id: those of the domain, the newest
    of other domains, and the chosen one even if it is older."""
    names = {other.id: other.name async for other in user.api.domains.list(MOST)} | {domain.id: ""}
    newest = [version async for version in user.api.adapters.list(limit=MOST, status="ready")]
    chosen = await or_none(user.api.adapters.get(chosen_id)) if chosen_id else None
    listed = {version.id: version for version in (*versions.values(), *newest, chosen) if version is not None}
    return {
        id: (version, words.version(version, names.get(version.domain_id, words.tail(version.domain_id))))
        for id, version in listed.items()
        if _can_be_mixed(version)
    }


def _can_be_mixed(version: Adapter) -> bool:
    return version.learned_guidance is None and not version.manifest.get("image_size")


class _Playground:
    def __init__(
        self, user: User, domain: Domain, versions: dict[str, Adapter], mixable: dict[str, tuple[Adapter, str]]
    ) -> None:
        self.user, self.domain, self.versions, self.mixable = user, domain, versions, mixable

    def build(self, earlier: list[Generation]) -> None:
        with kit.card(tr("Generate")):
            self._form()
            if self.user.may_write:
                kit.button(tr("Generate"), self.generate, kind="primary")
            else:
                kit.muted(tr("Your API key is read-only: it shows images, but cannot generate any."))
            with kit.box("row"):
                kit.button(tr("As curl"), lambda: self.show_code("curl", drawing.as_curl), kind="quiet")
                kit.button(tr("As Python"), lambda: self.show_code("Python", drawing.as_python), kind="quiet")
                kit.notifications_button()
        with kit.box("stack"):
            self.results = ui.element("div").classes("stack").props('aria-live="polite"')
            with self.results:
                for generation in earlier:
                    self._card(generation)
            self.hint = ui.element("div")
            if not earlier:
                with self.hint:
                    kit.empty(tr("Your images appear here"), tr("Choose a class, then press Generate."))

    def _form(self) -> None:
        active = self.versions.get(self.domain.active_adapter_id or "")
        names = {version.id: tr("Version {version}", version=version.version) for version in self.versions.values()}
        if active is not None:
            names = {"": tr("Active (version {version})", version=active.version), **names}
        self.adapter = kit.choice(tr("Version"), names, next(iter(names)))
        self.class_name = kit.choice(tr("Class"), [], None)
        self._fields()
        Form(adapter_id=self.adapter).keep()
        self._suit_version()
        self.adapter.on_value_change(self._suit_version)
        self.class_name.on_value_change(self._suit_mix)
        self.form = Form(
            class_name=self.class_name,
            count=self.count,
            seed=self.seed,
            steps=self.steps,
            adapter_scale=self.strength,
            mix_adapter_id=self.mix,
            mix_weight=self.weight,
            guidance_scale=self.guidance,
            guidance_adapter_scale=self.guide,
            guided_from=self.lowest,
            guided_to=self.highest,
            sampler=self.sampler,
            eta=self.noise,
            timestep_spacing=self.spacing,
        )
        self.form.keep()
        self._limit_guidance()  # the address may have a scale for another version

    def _fields(self) -> None:
        defaults = GENERATION_DEFAULTS
        with kit.box("fields two"):
            self.count = kit.number(tr("Images"), 4, least=1, most=64)
            hint = tr("Empty: a random seed.")
            self.seed = kit.number(tr("First seed"), None, least=0, most=_MAX_SEED, may_be_empty=True, hint=hint)
            self.steps = kit.number(tr("Steps"), _STEPS, least=1, most=1000)
            self.guidance = kit.number(
                tr("Guidance"), defaults["guidance_scale"], least=0, most=_MAX_GUIDANCE, step=0.5, whole=False
            )
        self.learned = kit.muted("").props("role=status")
        hint = tr("0 is the base, 1 the version; more exaggerates its style.")
        strength, most = defaults["adapter_scale"], _MAX_STRENGTH
        self.strength = kit.number(tr("Strength"), strength, least=0, most=most, step=0.1, whole=False, hint=hint)
        self.mix = kit.choice(tr("Mix with"), {"": ""}, "", hint=tr("Another version that has this class."))
        with kit.box("stack") as weight:
            self.weight = kit.fraction(tr("Weight of the other version"), _WEIGHT)
        weight.bind_visibility_from(self.mix, "value", backward=bool)
        self.guide = kit.choice(tr("Guide against"), tr_all(_GUIDES), "")
        with kit.box("fields two") as self.levels:
            least, most, hint = 0, _HIGHEST_LEVEL, tr("Noise level. Empty: as recommended.")
            low, high = tr("Guided from"), tr("Guided to")
            self.lowest = kit.number(low, None, least=least, most=most, may_be_empty=True, hint=hint)
            self.highest = kit.number(high, None, least=least, most=most, may_be_empty=True, hint=hint)
        self.sampler = kit.choice(tr("Sampler"), list(get_args(Sampler)), _SAMPLER)
        hint = tr("0 adds none, 1 as much as ddpm.")
        self.noise = kit.number(tr("Noise"), defaults["eta"], least=0, most=1, step=0.1, whole=False, hint=hint)
        self.noise.bind_visibility_from(self.sampler, "value", value=_NOISY_SAMPLER)
        self.spacing = kit.choice(tr("Timesteps"), list(get_args(TimestepSpacing)), defaults["timestep_spacing"])

    @property
    def version(self) -> Adapter:
        return self.versions[self.adapter.value or self.domain.active_adapter_id or ""]

    def _suit_version(self) -> None:
        """Offers the classes and the guidance of the chosen version, since versions may have different ones."""
        classes = list(self.version.class_names)
        chosen = self.class_name.value
        self.class_name.set_options(classes, value=chosen if chosen in classes else classes[0])
        self._suit_mix()
        self._limit_guidance()

    def _suit_mix(self) -> None:
        """Offers the versions that can be mixed with the chosen version, which have the chosen class too."""
        names = {
            id: name
            for id, (version, name) in self.mixable.items()
            if self.class_name.value in version.class_names and id != self.version.id and _can_be_mixed(self.version)
        }
        chosen = self.mix.value
        self.mix.set_options({"": tr("No other version"), **names}, value=chosen if chosen in names else "")
        self.mix.visible = bool(names)

    def _limit_guidance(self) -> None:
        learned = self.version.learned_guidance
        self.guide.visible = self.levels.visible = learned is None
        self.learned.visible = learned is not None
        if learned is None:
            kit.limit(self.guidance, 0, _MAX_GUIDANCE)
            return
        self.learned.text = tr(
            "This version has learned guidance up to {scale:g}: its images take about a third less time, and it "
            "cannot guide against the base or a weaker version.",
            scale=learned,
        )
        kit.limit(self.guidance, 1, learned)

    def body(self) -> GenerationSettings:
        body: GenerationSettings = {
            "class_name": self.class_name.value,
            "count": int(self.count.value),
            "steps": int(self.steps.value),
            "adapter_scale": float(self.strength.value),
            "guidance_scale": float(self.guidance.value),
            "sampler": self.sampler.value,
            "timestep_spacing": self.spacing.value,
        }
        if self.version.learned_guidance is None:
            if self.guide.value != "":
                body["guidance_adapter_scale"] = self.guide.value
            low, high = self.lowest.value, self.highest.value
            if low is not None or high is not None:
                body["guidance_interval"] = int(low or 0), int(_HIGHEST_LEVEL if high is None else high)
        if self.sampler.value == _NOISY_SAMPLER:
            body["eta"] = float(self.noise.value)
        if self.seed.value is not None:
            body["seed"] = int(self.seed.value)
        if self.adapter.value:
            body["adapter_id"] = self.adapter.value
        if self.mix.value:
            body |= {"mix_adapter_id": self.mix.value, "mix_weight": float(self.weight.value)}
        return body

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
                settings = [tr("version {version}", version=version.version)] if version else []
                settings += [tr("seed {seed}", seed=generation.seed), tr("{steps} steps", steps=generation.steps)]
                settings += [tr("guidance {guidance}", guidance=words.guidance(generation)), generation.sampler]
                if generation.adapter_scale != GENERATION_DEFAULTS["adapter_scale"]:
                    settings.append(tr("strength {scale:g}", scale=generation.adapter_scale))
                if other_id := generation.mix_adapter_id:
                    _, other = self.mixable.get(other_id, (None, other_id))
                    settings.append(words.mix(generation, other))
                kit.write(", ".join(settings), "span", "small")
            drawn = Drawing(self.user, generation)
            if self.user.may_write:
                with kit.box("row end") as ended:
                    kit.button(tr("Use this seed"), lambda: self._use_seed(generation.seed), kind="quiet")
                    self._delete_button(generation, card)
                ended.bind_visibility_from(drawn.state, "visible", backward=lambda is_active: not is_active)
        if drawn.is_active:
            kit.in_background(drawn.follow())
        return card

    def _use_seed(self, seed: int) -> None:
        self.seed.value = seed
        kit.said(tr("The next images use the seed {seed}.", seed=seed))

    def _delete_button(self, generation: Generation, card: ui.element) -> None:
        async def delete() -> None:
            await self.user.api.generations.delete(generation.id)
            card.delete()

        name = tr("the images of {class_name}, seed {seed}", class_name=generation.class_name, seed=generation.seed)
        kit.delete_button(name, tr("Delete the images"), tr("Links to them stop working."), delete)

    def show_code(self, name: str, render: drawing.Render) -> None:
        if not self.form.is_valid():
            return
        with kit.dialog(tr("The same request as {name}", name=name)) as shown:
            kit.code(render(self.user.api.url, self.domain.id, self.body()))
            with kit.box("row end"):
                kit.button(tr("Close"), shown.close, kind="primary")
        shown.open()
