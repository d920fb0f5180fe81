"""One fine-tune as it goes: its curve, its drawings, its end."""

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
        found = await user.contract.get(f"/v1/finetunes/{id}", FinetuneOut)
    except ProblemError as error:
        with frame(user, "Fine-tune", section="Domains", crumbs={"Domains": "/domains"}):
            show_problem(error.problem)
        return
    domain = await find(user, found.domain_id)
    if domain is None:
        return
    with domain_frame(user, domain, "Training"):
        watch = _Watch(user, found)
        watch.build()
    task = background_tasks.create(watch.follow())
    ui.context.client.on_delete(lambda: task.cancel() and None)


class _Watch:
    """State of a fine-tune's page, built from its events as they come."""

    def __init__(self, user: User, found: FinetuneOut) -> None:
        self.user, self.found = user, found
        self.client = ui.context.client

    def build(self) -> None:
        with kit.card() as card:
            with kit.box("row spread"):
                kit.write(f"Fine-tune of {words.moment(self.found.created_at)}", "h2")
                with kit.box("row") as self.actions:
                    self._actions()
            self.bar = kit.bar("Steps done", self.found.step / self.found.steps)
            self.says = kit.muted(_progress(self.found)).props("role=status")
            self.curve = LossCurve()
        card.props("data-finetune")
        with kit.card("Drawings on the way", "The same seeds, drawn with what it had learned by then."):
            self.none_yet = kit.muted("None yet.")
            self.samples = ui.element("div").classes("samples")
        with kit.card("Settings"):
            found = self.found
            facts = {"Method": found.method, "Sites": found.preset or "", "Images a step": str(found.batch_size)}
            facts |= {"Learning rate": f"{found.learning_rate:g}", "Seed": str(found.seed)}
            if found.trainable_parameters:
                facts["Trained numbers"] = words.count(found.trainable_parameters)
            if found.held_out_loss_base and found.held_out_loss_adapter:
                better = 1 - found.held_out_loss_adapter / found.held_out_loss_base
                facts["Loss on images it did not see"] = f"{better:.0%} below the base's"
            kit.facts(facts)

    async def follow(self) -> None:
        """Until the end; then the row has the last word."""
        async for event, data in self.user.contract.events(f"/v1/finetunes/{self.found.id}/events"):
            with self.client:
                self._tell(event, data)
        was_running = self.found.status in _UNFINISHED
        self.found = await self.user.contract.get(f"/v1/finetunes/{self.found.id}", FinetuneOut)
        with self.client:
            if was_running:
                ui.navigate.reload()  # the settings now tell the outcome too

    def _tell(self, event: str, data: dict[str, Any]) -> None:
        if event == "progress":
            self.curve.add(data["step"], data["loss"])
            self.bar.props["value"] = data["step"] / data["steps"]
            left = "" if data["eta_seconds"] is None else f", {words.duration(data['eta_seconds'])} left"
            if self.found.status in _UNFINISHED:
                self.says.text = f"Step {data['step']:,} of {data['steps']:,}, loss {data['loss']:.4f}{left}"
        elif event == "sample":
            self.none_yet.visible = False
            with self.samples, kit.box("shot"):
                kit.picture(data["url"], f"Drawn at step {data['step']}", "sample")
                kit.write(f"Step {data['step']:,}", "span", "small")
        elif event == "status" and (self.found.status, data["status"]) == ("queued", "running"):
            self.found.status = "running"
            self.actions.clear()
            with self.actions:
                self._actions()
        elif event == "error" and self.found.status in _UNFINISHED:
            self.says.text = str(data["detail"])

    def _actions(self) -> None:
        kit.badge(self.found.status)
        if self.found.status in _UNFINISHED and self.user.may_write:
            kit.button("Cancel", self._cancel, kind="danger")
        if self.found.status == "succeeded":
            kit.link_button("Compare the versions", f"/domains/{self.found.domain_id}/versions")
            kit.link_button("Draw with it", f"/domains/{self.found.domain_id}/playground", kind="primary")

    async def _cancel(self) -> None:
        await self.user.contract.post(f"/v1/finetunes/{self.found.id}/cancel", FinetuneOut)
        kit.said("It ends at its next step.")


def _progress(found: FinetuneOut) -> str:
    if found.error:
        return found.error.detail
    if found.status == "queued":
        return "It waits for a worker."
    return f"{found.step:,} of {found.steps:,} steps in {words.duration(found.seconds)} of device time"
