"""Page of a domain's fine-tunes: a form to start one, with an estimate of its cost, and a list of them."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.forms import Form
from api.dashboard.frame import page
from api.dashboard.user import MOST, TenantUser, User
from difffit.events import ACTIVE
from difffit.models import Dataset, Finetune
from difffit.requests import FinetuneSettings

_LENGTHS = {100: "Quick look, 100 steps", 400: "Standard, 400 steps", 1500: "Thorough, 1,500 steps"}
_SITES = {
    "paper": "Table 1 of the paper, with norms",
    "literal": "Algorithms of the paper, without norms",
}


@page("/domains/{id}/training")
async def training(user: TenantUser, id: str, dataset_id: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Training"):
        ready = [dataset async for dataset in user.api.datasets.list(id, MOST, status="ready")]
        finetunes = [finetune async for finetune in user.api.finetunes.list(id, MOST)]
        if not ready:
            kit.empty("No images to train on yet", "Upload images first.")
            kit.link_button("Upload images", f"/domains/{id}/images", kind="primary")
        elif user.may_write:
            _Form(user, id, ready, dataset_id).build()
        if finetunes:
            with kit.card("Fine-tunes"):
                columns = ("Started", "State", "Steps", "Loss", "Device time", "")
                kit.table("Fine-tunes, newest first", columns, [_row(finetune) for finetune in finetunes])


def _row(finetune: Finetune) -> list[kit.Cell]:
    return [
        words.moment(finetune.created_at),
        lambda: kit.badge(finetune.status),
        f"{finetune.step:,} of {finetune.steps:,}",
        "" if finetune.loss is None else f"{finetune.loss:.4f}",
        words.duration(finetune.seconds),
        lambda: ui.link("Watch" if finetune.status in ACTIVE else "View", f"/finetunes/{finetune.id}"),
    ]


class _Form:
    """Form that starts a fine-tune. It shows an estimate of the cost, updated with each change of the settings."""

    def __init__(self, user: User, domain_id: str, datasets: list[Dataset], chosen: str) -> None:
        self.user, self.domain_id = user, domain_id
        self.datasets = {
            dataset.id: f"{dataset.name or words.moment(dataset.created_at)}, {words.several(dataset.images, 'image')}"
            for dataset in datasets
        }
        self.chosen = chosen if chosen in self.datasets else datasets[0].id

    def build(self) -> None:
        with kit.card("Start a fine-tune", "The base model learns your images. You can keep generating meanwhile."):
            with kit.box("fields"):
                self.dataset = kit.choice("Images", self.datasets, self.chosen)
                self.length = kit.choice("Length", _LENGTHS, 400)
                self.batch = kit.number("Batch size", 32, least=1, most=1024)
            with ui.element("details").classes("more"):
                kit.write("More settings", "summary")
                with kit.box("fields"):
                    self.preset = kit.choice("Preset", _SITES, "paper")
                    self.steps = kit.number("Steps (overrides the length)", 0, least=0, most=100_000)
                    self.rate = kit.number("Learning rate", 0.001, least=0.000001, most=1, step=0.0001, whole=False)
                    self.seed = kit.number("Seed", 0, least=0, most=2**31)
                self.promote = ui.checkbox("Make the new version active")
            self.estimate = kit.muted("").props("role=status")
            with kit.box("row"):
                kit.button("Start training", self.start, kind="primary")
        self.form = Form(
            dataset_id=self.dataset,
            length=self.length,
            batch_size=self.batch,
            preset=self.preset,
            steps=self.steps,
            learning_rate=self.rate,
            seed=self.seed,
            auto_promote=self.promote,
        )
        self.form.keep()
        for control in (self.dataset, self.length, self.batch, self.preset, self.steps):
            control.on_value_change(self.show_estimate)
        ui.timer(0.1, self.show_estimate, once=True)

    def settings(self) -> FinetuneSettings:
        return {
            "preset": self.preset.value,
            "steps": int(self.steps.value or self.length.value),
            "batch_size": int(self.batch.value),
            "learning_rate": float(self.rate.value),
            "seed": int(self.seed.value),
            "auto_promote": bool(self.promote.value),
        }

    async def show_estimate(self) -> None:
        self.estimate.text = ""
        if not self.form.is_valid():
            return
        with self.form.showing_problems():
            estimate = await self.user.api.finetunes.estimate(self.domain_id, self.dataset.value, **self.settings())
            seconds = estimate.seconds
            time = "unknown until your first training here" if seconds is None else f"about {words.duration(seconds)}"
            self.estimate.text = (
                f"Time: {time}. Trains {estimate.trainable_parameters:,} parameters "
                f"({estimate.trainable_fraction:.2%} of the base model) and shows it each image about "
                f"{words.several(round(estimate.epochs), 'time')}. "
                f"The version takes about {words.size(estimate.adapter_bytes)}."
            )

    async def start(self) -> None:
        if not self.form.is_valid():
            return
        with self.form.showing_problems():
            finetune = await self.user.api.finetunes.start(self.domain_id, self.dataset.value, **self.settings())
            ui.navigate.to(f"/finetunes/{finetune.id}")
