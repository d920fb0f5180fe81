"""Page of one fine-tune: live loss curve, sample images, result."""

from contextlib import suppress

from nicegui import background_tasks, ui

from api.dashboard import kit, words
from api.dashboard.chart import LossCurve
from api.dashboard.domain import domain_frame, find
from api.dashboard.frame import frame, show_problem
from api.dashboard.user import TenantUser, User
from difffit import DiffFitError
from difffit.errors import ConnectionFailed
from difffit.events import ACTIVE, Evaluation, Event, Failure, Progress, Sample, Status
from difffit.models import Finetune


@ui.page("/finetunes/{id}")
async def finetune(user: TenantUser, id: str) -> None:
    try:
        details = await user.api.finetunes.get(id)
    except DiffFitError as error:
        with frame(user, "Fine-tune", section="Domains", crumbs={"Domains": "/domains"}):
            show_problem(error)
        return
    domain = await find(user, details.domain_id)
    if domain is None:
        return
    with domain_frame(user, domain, "Training"):
        watch = _Watch(user, details)
        watch.build()
    task = background_tasks.create(watch.follow())
    ui.context.client.on_delete(lambda: task.cancel() and None)


class _Watch:
    """Content of a fine-tune's page, updated with each event that the API streams."""

    def __init__(self, user: User, finetune: Finetune) -> None:
        self.user, self.finetune = user, finetune
        self.client = ui.context.client

    def build(self) -> None:
        with kit.card() as card:
            with kit.box("row spread"):
                kit.write(f"Fine-tune of {words.moment(self.finetune.created_at)}", "h2")
                with kit.box("row") as self.actions:
                    self._actions()
            self.bar = kit.bar("Steps done", self.finetune.step / self.finetune.steps)
            self.status_line = kit.muted(_progress(self.finetune)).props("role=status")
            self.curve = LossCurve()
        card.props("data-finetune")
        with kit.card("Sample images", "Generated from the same seeds as training progresses."):
            self.none_yet = kit.muted("No samples yet.")
            self.samples = ui.element("div").classes("samples")
        with kit.card("Settings"):
            finetune = self.finetune
            facts = {"Method": finetune.method, "Preset": finetune.preset or "", "Batch size": str(finetune.batch_size)}
            facts |= {"Learning rate": f"{finetune.learning_rate:g}", "Seed": str(finetune.seed)}
            if finetune.trainable_parameters:
                facts["Trained parameters"] = words.count(finetune.trainable_parameters)
            if finetune.held_out_loss_base and finetune.held_out_loss_adapter:
                better = 1 - finetune.held_out_loss_adapter / finetune.held_out_loss_base
                facts["Loss on held-out images"] = f"{better:.0%} below the base's"
            if finetune.adapter_step is not None:
                facts["Version of step"] = f"{finetune.adapter_step:,}"
            kit.facts(facts)

    async def follow(self) -> None:
        """Shows the fine-tune's events until it ends. If it ended while the page was open, reloads the page to show the
        result."""
        with suppress(ConnectionFailed):  # if the stream breaks, `get` below returns the status or raises the error
            async for event in self.user.api.finetunes.events(self.finetune.id):
                with self.client:
                    self._show(event)
        was_running = self.finetune.status in ACTIVE
        self.finetune = await self.user.api.finetunes.get(self.finetune.id)
        with self.client:
            if was_running:
                ui.navigate.reload()  # the settings now include the result

    def _show(self, event: Event) -> None:
        is_active = self.finetune.status in ACTIVE
        match event:
            case Progress():
                self.curve.add(event.step, event.loss)
                self.bar.props["value"] = event.step / event.steps
                left = "" if event.eta_seconds is None else f", {words.duration(event.eta_seconds)} left"
                if is_active:
                    self.status_line.text = f"Step {event.step:,} of {event.steps:,}, loss {event.loss:.4f}{left}"
            case Evaluation():
                self.curve.add_held_out(event.step, event.held_out_loss)
            case Sample():
                self.none_yet.visible = False
                with self.samples, kit.box("shot"):
                    kit.picture(event.url, f"Sample at step {event.step}", "sample")
                    kit.write(f"Step {event.step:,}", "span", "small")
            case Status(status="running") if self.finetune.status == "queued":
                self.finetune.status = "running"
                self.actions.clear()
                with self.actions:
                    self._actions()
            case Failure() if is_active:
                self.status_line.text = event.detail

    def _actions(self) -> None:
        kit.badge(self.finetune.status)
        if self.finetune.status in ACTIVE and self.user.may_write:
            kit.button("Cancel", self._cancel, kind="danger")
        if self.finetune.status == "succeeded":
            kit.link_button("Compare versions", f"/domains/{self.finetune.domain_id}/versions")
            kit.link_button("Draw with it", f"/domains/{self.finetune.domain_id}/playground", kind="primary")

    async def _cancel(self) -> None:
        await self.user.api.finetunes.cancel(self.finetune.id)
        kit.said("Cancelled. It stops after the current step.")


def _progress(finetune: Finetune) -> str:
    if finetune.error:
        return finetune.error.detail
    if finetune.status == "queued":
        return "Waiting for a worker."
    text = f"{finetune.step:,} of {finetune.steps:,} steps in {words.duration(finetune.seconds)} of device time"
    if finetune.stop_reason == "early_stopping":
        text += f". Stopped early: the held-out loss was lowest at step {finetune.adapter_step:,}"
    return text
