"""Page of one fine-tune: live loss curve, sample images, result."""

from typing import Any

from nicegui import background_tasks, ui

from api.dashboard import kit, words
from api.dashboard.chart import LossCurve
from api.dashboard.contract import ProblemError
from api.dashboard.domain import domain_frame, find
from api.dashboard.frame import frame, show_problem
from api.dashboard.user import TenantUser, User
from api.schemas.finetunes import FinetuneOut

_UNFINISHED = {"queued", "running"}


@ui.page("/finetunes/{id}")
async def finetune(user: TenantUser, id: str) -> None:
    try:
        details = await user.contract.get(f"/v1/finetunes/{id}", FinetuneOut)
    except ProblemError as error:
        with frame(user, "Fine-tune", section="Domains", crumbs={"Domains": "/domains"}):
            show_problem(error.problem)
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
    """State of a fine-tune's page, built from its events as they come."""

    def __init__(self, user: User, finetune: FinetuneOut) -> None:
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
            kit.facts(facts)

    async def follow(self) -> None:
        """Shows events until the fine-tune ends, then reads its final state."""
        async for event, data in self.user.contract.events(f"/v1/finetunes/{self.finetune.id}/events"):
            with self.client:
                self._tell(event, data)
        was_running = self.finetune.status in _UNFINISHED
        self.finetune = await self.user.contract.get(f"/v1/finetunes/{self.finetune.id}", FinetuneOut)
        with self.client:
            if was_running:
                ui.navigate.reload()  # the settings now include the result

    def _tell(self, event: str, data: dict[str, Any]) -> None:
        if event == "progress":
            self.curve.add(data["step"], data["loss"])
            self.bar.props["value"] = data["step"] / data["steps"]
            left = "" if data["eta_seconds"] is None else f", {words.duration(data['eta_seconds'])} left"
            if self.finetune.status in _UNFINISHED:
                self.status_line.text = f"Step {data['step']:,} of {data['steps']:,}, loss {data['loss']:.4f}{left}"
        elif event == "sample":
            self.none_yet.visible = False
            with self.samples, kit.box("shot"):
                kit.picture(data["url"], f"Sample at step {data['step']}", "sample")
                kit.write(f"Step {data['step']:,}", "span", "small")
        elif event == "status" and (self.finetune.status, data["status"]) == ("queued", "running"):
            self.finetune.status = "running"
            self.actions.clear()
            with self.actions:
                self._actions()
        elif event == "error" and self.finetune.status in _UNFINISHED:
            self.status_line.text = str(data["detail"])

    def _actions(self) -> None:
        kit.badge(self.finetune.status)
        if self.finetune.status in _UNFINISHED and self.user.may_write:
            kit.button("Cancel", self._cancel, kind="danger")
        if self.finetune.status == "succeeded":
            kit.link_button("Compare versions", f"/domains/{self.finetune.domain_id}/versions")
            kit.link_button("Draw with it", f"/domains/{self.finetune.domain_id}/playground", kind="primary")

    async def _cancel(self) -> None:
        await self.user.contract.post(f"/v1/finetunes/{self.finetune.id}/cancel", FinetuneOut)
        kit.said("Cancelled. It stops after the current step.")


def _progress(finetune: FinetuneOut) -> str:
    if finetune.error:
        return finetune.error.detail
    if finetune.status == "queued":
        return "Waiting for a worker."
    return f"{finetune.step:,} of {finetune.steps:,} steps in {words.duration(finetune.seconds)} of device time"
