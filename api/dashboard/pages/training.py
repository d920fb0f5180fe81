"""Page of a domain's fine-tunes: a form to start one, with an estimate of its cost, and a list of them."""

from nicegui import ui

from api.dashboard import datasets, kit, words
from api.dashboard.domain import domain_frame, find, usable_versions
from api.dashboard.forms import Form
from api.dashboard.frame import page
from api.dashboard.texts import number, tr, tr_all
from api.dashboard.user import MOST, TenantUser, User
from difffit.events import ACTIVE
from difffit.models import Adapter, Dataset, Finetune
from difffit.requests import FINETUNE_DEFAULTS, FinetuneSettings

_PRESETS = {
    "paper": "Table 1 of the paper, with norms",
    "literal": "Algorithms of the paper, without norms",
}


@page("/domains/{id}/training")
async def training(user: TenantUser, id: str, dataset_id: str = "", from_adapter_id: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Training"):
        ready = [dataset async for dataset in user.api.datasets.list(id, MOST, status="ready")]
        finetunes = [finetune async for finetune in user.api.finetunes.list(id, MOST)]
        if not ready:
            kit.empty(tr("No images to train on yet"), tr("Upload images first."))
            kit.link_button(tr("Upload images"), f"/domains/{id}/images", kind="primary")
        elif user.may_write:
            versions = await usable_versions(user, domain, from_adapter_id)
            _Form(user, id, ready, versions).build(dataset_id)
        if finetunes:
            with kit.card(tr("Fine-tunes")):
                columns = (tr("Started"), tr("State"), tr("Steps"), tr("Loss"), tr("Device time"), "")
                kit.table(tr("Fine-tunes, newest first"), columns, [_row(finetune) for finetune in finetunes])


def _row(finetune: Finetune) -> list[kit.Cell]:
    return [
        words.moment(finetune.created_at),
        lambda: kit.badge(finetune.status),
        tr("{step:,} of {steps:,}", step=finetune.step, steps=finetune.steps),
        "" if finetune.loss is None else number(finetune.loss, ".4f"),
        words.duration(finetune.seconds),
        lambda: ui.link(tr("Watch") if finetune.status in ACTIVE else tr("View"), f"/finetunes/{finetune.id}"),
    ]


class _Form:
    """Form that starts a fine-tune. It shows an estimate of the cost, updated with each change of the settings."""

    def __init__(self, user: User, domain_id: str, ready: list[Dataset], versions: dict[str, Adapter]) -> None:
        self.user, self.domain_id = user, domain_id
        self.datasets = {dataset.id: datasets.label_of(dataset) for dataset in ready}
        numbered = {id: tr("Version {version}", version=version.version) for id, version in versions.items()}
        self.origins = {"": tr("The base model"), **numbered}
        self.suggested_steps = 0

    def build(self, dataset_id: str) -> None:
        with kit.card(
            tr("Start a fine-tune"), tr("The base model learns your images. You can keep generating meanwhile.")
        ):
            with kit.box("fields"):
                self._main_fields(dataset_id if dataset_id in self.datasets else next(iter(self.datasets)))
            self._more()
            self.estimate = kit.muted("").props("role=status")
            with kit.box("row"):
                kit.button(tr("Start training"), self.start, kind="primary")
                self.suggestion = kit.button("", self.use_suggestion)
                self.suggestion.visible = False
        self.form = Form(
            dataset_id=self.dataset,
            from_adapter_id=self.origin,
            steps=self.steps,
            batch_size=self.batch,
            preset=self.preset,
            learning_rate=self.rate,
            seed=self.seed,
            sampling=self.sampling,
            evaluate_every=self.every,
            keep=self.kept,
            early_stopping=self.patience,
            distill_guidance=self.guidance,
            distill_steps=self.guidance_steps,
            train_class_table=self.class_table,
            auto_promote=self.promote,
        )
        self.form.keep()
        priced = (self.dataset, self.origin, self.steps, self.batch, self.preset, self.class_table)
        for control in (*priced, self.guidance, self.guidance_steps):
            control.on_value_change(self.show_estimate)
        ui.timer(0.1, self.show_estimate, once=True)

    def _main_fields(self, dataset_id: str) -> None:
        self.dataset = kit.choice(tr("Images"), self.datasets, dataset_id)
        hint = tr("A version continues to learn. Its classes are matched with these images by name.")
        self.origin = kit.choice(tr("Start from"), self.origins, "", hint=hint)
        hint = tr("One step learns from one batch.")
        self.steps = kit.number(tr("Steps"), FINETUNE_DEFAULTS["steps"], least=1, most=100_000, hint=hint)
        hint = tr("Images per step.")
        self.batch = kit.number(tr("Batch size"), FINETUNE_DEFAULTS["batch_size"], least=1, most=1024, hint=hint)

    def _more(self) -> None:
        defaults = FINETUNE_DEFAULTS
        with ui.element("details").classes("more"):
            kit.write(tr("More settings"), "summary")
            with kit.box("fields"):
                self._more_fields()
            kit.muted(
                tr(
                    "With learned guidance, images of the version take about a third less time at nearly the same "
                    "quality. The steps that learn it take about twice as long, and other kinds of guidance no longer "
                    "apply."
                )
            )
            label = tr("Train the class embeddings. Without, the base must know all classes by name.")
            self.class_table = ui.checkbox(label, value=defaults["train_class_table"])
            self.promote = ui.checkbox(tr("Make the new version active"), value=defaults["auto_promote"])

    def _more_fields(self) -> None:
        defaults = FINETUNE_DEFAULTS
        hint = tr("Every class suits classes of very different size.")
        self.sampling = kit.choice(tr("Equally often"), tr_all(words.SAMPLING), defaults["sampling"], hint=hint)
        hint = tr("Steps between two tests on images that are held out of the training.")
        self.every = kit.number(tr("Test every"), defaults["evaluate_every"], least=1, most=100_000, hint=hint)
        hint = tr("The best has the lowest loss in these tests.")
        self.kept = kit.choice(tr("Keep"), tr_all(words.KEPT), defaults["keep"], hint=hint)
        hint = tr("Tests without improvement after which training ends, and keeps the best. Empty: never.")
        self.patience = kit.number(tr("Stop early after"), None, least=1, most=1000, may_be_empty=True, hint=hint)
        self._guidance_fields()
        rate = defaults["learning_rate"]
        self.rate = kit.number(tr("Learning rate"), rate, least=0.000001, most=1, step=0.0001, whole=False)
        self.seed = kit.number(tr("Seed"), defaults["seed"], least=0, most=2**53 - 1)
        self.preset = kit.choice(tr("Preset"), tr_all(_PRESETS), defaults["preset"])
        self.preset.bind_visibility_from(self.origin, "value", backward=lambda origin: not origin)

    def _guidance_fields(self) -> None:
        hint = tr("Highest guidance scale. Empty: none.")
        self.guidance = kit.number(
            tr("Learn guidance up to"), None, least=1.1, most=10, step=0.5, whole=False, may_be_empty=True, hint=hint
        )
        hint = tr("Last steps, which learn guidance. At most half of all.")
        steps = FINETUNE_DEFAULTS["distill_steps"]
        self.guidance_steps = kit.number(tr("Guidance steps"), steps, least=1, most=100_000, hint=hint)
        self.guidance_steps.bind_visibility_from(self.guidance, "value", backward=lambda scale: scale is not None)

    def settings(self) -> FinetuneSettings:
        settings: FinetuneSettings = {
            "steps": int(self.steps.value),
            "batch_size": int(self.batch.value),
            "learning_rate": float(self.rate.value),
            "seed": int(self.seed.value),
            "sampling": self.sampling.value,
            "evaluate_every": int(self.every.value),
            "keep": self.kept.value,
            "early_stopping": None if self.patience.value is None else int(self.patience.value),
            "train_class_table": bool(self.class_table.value),
            "auto_promote": bool(self.promote.value),
        }
        if self.guidance.value is not None:
            settings["distill_guidance"] = float(self.guidance.value)
            settings["distill_steps"] = int(self.guidance_steps.value)
        if self.origin.value:
            return {**settings, "from_adapter_id": self.origin.value}
        return {**settings, "preset": self.preset.value}  # a version has its own

    async def show_estimate(self) -> None:
        self.estimate.text = ""
        self.suggestion.visible = False
        if not self.form.is_valid():
            return
        with self.form.showing_problems():
            estimate = await self.user.api.finetunes.estimate(self.domain_id, self.dataset.value, **self.settings())
            seconds = estimate.seconds
            time = (
                tr("unknown until your first training here")
                if seconds is None
                else tr("about {time}", time=words.duration(seconds))
            )
            self.estimate.text = tr(
                "Time: {time}. Trains {parameters:,} parameters ({fraction:.2%} of the base model) and shows it each "
                "image about {times}. The version takes about {size}.",
                time=time,
                parameters=estimate.trainable_parameters,
                fraction=estimate.trainable_fraction,
                times=words.several(round(estimate.epochs), "time"),
                size=words.size(estimate.adapter_bytes),
            )
            self.suggested_steps = estimate.suggested_steps
            self.suggestion.text = tr(
                "Use the suggested {steps}", steps=words.several(estimate.suggested_steps, "step")
            )
            self.suggestion.visible = estimate.suggested_steps != self.steps.value

    def use_suggestion(self) -> None:
        self.steps.value = self.suggested_steps

    async def start(self) -> None:
        if not self.form.is_valid():
            return
        with self.form.showing_problems():
            finetune = await self.user.api.finetunes.start(self.domain_id, self.dataset.value, **self.settings())
            ui.navigate.to(f"/finetunes/{finetune.id}")
