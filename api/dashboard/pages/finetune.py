"""Page of one fine-tune: live loss curve, sample images, result."""

from contextlib import suppress

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.chart import LossCurve
from api.dashboard.domain import domain_frame, find
from api.dashboard.frame import frame, page, show_problem
from api.dashboard.texts import number, problem, tr
from api.dashboard.user import TenantUser, User
from api.dashboard.viewer import version_name
from difffit import DiffFitError
from difffit.errors import ConnectionFailed
from difffit.events import ACTIVE, Evaluation, Event, Failure, Progress, Sample, Status
from difffit.models import Finetune


@page("/finetunes/{id}")
async def finetune(user: TenantUser, id: str) -> None:
    try:
        details = await user.api.finetunes.get(id)
    except DiffFitError as error:
        with frame(user, tr("Fine-tune"), section="Domains", crumbs={"Domains": "/domains"}):
            show_problem(error)
        return
    domain = await find(user, details.domain_id)
    if domain is None:
        return
    with domain_frame(user, domain, "Training"):
        watch = _Watch(user, details, domain.name)
        watch.build(await version_name(user, details.from_adapter_id))
    kit.in_background(watch.follow())


class _Watch:
    """Content of a fine-tune's page, updated with each event that the API streams."""

    def __init__(self, user: User, finetune: Finetune, domain_name: str) -> None:
        self.user, self.finetune, self.domain_name = user, finetune, domain_name
        self.is_cancelling = finetune.status in ACTIVE and finetune.cancel_requested_at is not None
        self.client = ui.context.client

    def build(self, origin: str) -> None:
        with kit.card() as card:
            with kit.box("row spread"):
                kit.write(tr("Fine-tune of {created_at}", created_at=words.moment(self.finetune.created_at)), "h2")
                with kit.box("row") as self.actions:
                    self._actions()
            self.bar = kit.bar(tr("Steps done"), self.finetune.step / self.finetune.steps)
            self.status_line = kit.muted(_progress(self.finetune)).props("role=status")
            if self.finetune.error:
                kit.original(self.finetune.error.code, self.finetune.error.detail)
            self.curve = LossCurve()
        card.props("data-finetune")
        with kit.card(tr("Sample images"), tr("Generated from the same seeds as training progresses.")):
            self.none_yet = kit.muted(tr("No samples yet."))
            self.samples = ui.element("div").classes("samples")
        with kit.card(tr("Settings")):
            kit.facts(_settings(self.finetune, origin))

    async def follow(self) -> None:
        """Shows the fine-tune's events until it ends. If it ended while the page was open, reloads the page to show the
        result."""
        if self.finetune.status == "queued" and (await self.user.api.ready()).workers == 0:
            self.status_line.text = tr(kit.NO_WORKER)
        with suppress(ConnectionFailed):  # if the stream breaks, `get` below returns the status or raises the error
            async for event in self.user.api.finetunes.events(self.finetune.id):
                with self.client:
                    self._show(event)
        was_running = self.finetune.status in ACTIVE
        self.finetune = await self.user.api.finetunes.get(self.finetune.id)
        with self.client:
            if was_running:
                kit.ended(tr("Training of {name} {status}", name=self.domain_name, status=tr(self.finetune.status)))
                kit.reload()  # the settings now include the result

    def _show(self, event: Event) -> None:
        is_active = self.finetune.status in ACTIVE
        match event:
            case Progress():
                self.curve.add(event.step, event.loss)
                self.bar.props["value"] = event.step / event.steps
                if is_active:
                    self.status_line.text = self._step(event)
                    ui.page_title(
                        tr(
                            "{done:.0%} · Training · {name} · DiffFit",
                            done=event.step / event.steps,
                            name=self.domain_name,
                        )
                    )
            case Evaluation():
                self.curve.add_held_out(event.step, event.held_out_loss)
            case Sample():
                self.none_yet.visible = False
                with self.samples, kit.box("shot"):
                    kit.picture(event.url, tr("Sample at step {step}", step=event.step), "sample")
                    kit.write(tr("Step {step:,}", step=event.step), "span", "small")
            case Status(status="running") if self.finetune.status == "queued":
                self.finetune.status = "running"
                self._show_actions()
            case Failure() if is_active:
                self.status_line.text = problem(event.code, event.detail)

    def _step(self, event: Progress) -> str:
        if self.is_cancelling:
            return tr("Cancelling after the current step.")
        done = tr("Step {step:,} of {steps:,}, loss {loss:.4f}", step=event.step, steps=event.steps, loss=event.loss)
        if event.step == event.steps:
            return tr("{done}. Evaluating, and saving the new version.", done=done)
        return (
            done
            if event.eta_seconds is None
            else tr("{done}, {time} left", done=done, time=words.duration(event.eta_seconds))
        )

    def _show_actions(self) -> None:
        self.actions.clear()
        with self.actions:
            self._actions()

    def _actions(self) -> None:
        kit.badge("cancelling" if self.is_cancelling else self.finetune.status)
        if self.finetune.status in ACTIVE and self.user.may_write and not self.is_cancelling:
            kit.notifications_button()
            kit.button(tr("Cancel"), self._cancel, kind="danger")
        if self.finetune.status not in ACTIVE and self.user.may_write:
            detail = tr(
                "Its curve and sample images are deleted too. The version that it trained must be deleted first."
            )
            kit.delete_button(tr("this fine-tune"), tr("Delete the fine-tune"), detail, self._delete)
        if self.finetune.status == "succeeded":
            kit.link_button(tr("Compare versions"), f"/domains/{self.finetune.domain_id}/versions")
        if self.finetune.adapter_id is not None:
            domain, version = f"/domains/{self.finetune.domain_id}", self.finetune.adapter_id
            if self.user.may_write:
                query = {"from_adapter_id": version, "dataset_id": self.finetune.dataset_id}
                kit.link_button(tr("Continue from it"), kit.with_query(f"{domain}/training", query))
            kit.link_button(tr("Generate with it"), f"{domain}/playground?adapter_id={version}", kind="primary")

    async def _delete(self) -> None:
        await self.user.api.finetunes.delete(self.finetune.id)
        ui.navigate.to(f"/domains/{self.finetune.domain_id}/training")

    async def _cancel(self) -> None:
        await self.user.api.finetunes.cancel(self.finetune.id)
        self.is_cancelling = True
        self.status_line.text = tr("Cancelling after the current step.")
        self._show_actions()


def _settings(finetune: Finetune, origin: str) -> dict[str, str]:
    """Returns the settings of a fine-tune, and its results if it has any, in words."""
    facts = {tr("Started from"): origin, tr("Method"): finetune.method, tr("Preset"): finetune.preset or ""}
    facts |= {tr("Batch size"): str(finetune.batch_size), tr("Learning rate"): number(finetune.learning_rate, "g")}
    facts |= {tr("Seed"): str(finetune.seed), tr("Shown equally often"): tr(words.SAMPLING.get(finetune.sampling, ""))}
    facts |= {
        tr("Kept"): tr(words.KEPT.get(finetune.keep, "")),
        tr("Learned guidance"): words.learned_guidance(finetune),
    }
    facts[tr("Class embeddings")] = tr(words.CLASS_TABLE[finetune.train_class_table])
    if finetune.early_stopping is not None:
        facts[tr("Stops early after")] = tr(
            "{tests} without improvement", tests=words.several(finetune.early_stopping, "test")
        )
    if finetune.trainable_parameters:
        facts[tr("Trained parameters")] = words.count(finetune.trainable_parameters)
    if finetune.held_out_loss_base and finetune.held_out_loss_adapter:
        better = 1 - finetune.held_out_loss_adapter / finetune.held_out_loss_base
        facts[tr("Loss on held-out images")] = tr("{better:.0%} below the base's", better=better)
    if finetune.adapter_step is not None:
        facts[tr("Version of step")] = words.count(finetune.adapter_step)
    return facts


def _progress(finetune: Finetune) -> str:
    if finetune.error:
        return problem(finetune.error.code, finetune.error.detail)
    if finetune.status == "queued":
        return tr("In the queue: waiting for a free worker.")
    text = tr(
        "{step:,} of {steps:,} steps in {time} of device time",
        step=finetune.step,
        steps=finetune.steps,
        time=words.duration(finetune.seconds),
    )
    if finetune.stop_reason == "early_stopping":
        text += tr(". Stopped early: the held-out loss was lowest at step {step:,}", step=finetune.adapter_step)
    return text
