"""For administrators: workers with what they hold, and what waits for them."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import AdminUser
from api.schemas.usage import QueueOut, Readiness, WorkerOut

_QUEUES = {"datasets": "Data sets", "finetune": "Fine-tunes", "generate": "Drawings"}


@ui.page("/fleet")
async def fleet(user: AdminUser) -> None:
    with frame(user, "Fleet", section="Fleet"):
        queues = await user.contract.list("/v1/admin/queues", QueueOut)
        workers = await user.contract.list("/v1/admin/workers", WorkerOut)
        readiness = await user.contract.get("/readyz", Readiness)
        for warning in readiness.warnings.values():
            kit.write(warning, "p", "problem").props("role=alert")
        with kit.card("Queues"):
            kit.table("Queues", ("Queue", "Waiting", "Running", "Oldest waits since"), [_queue(one) for one in queues])
        with kit.card("Workers", f"{words.several(len(workers), 'worker')} alive."):
            if not workers:
                kit.muted("Work waits until one starts: python -m worker")
            columns = ("Worker", "Device", "Queues", "Base", "Adapters held", "Since", "Last heard of")
            if workers:
                kit.table("Workers that are alive", columns, [_worker(one) for one in workers])


def _queue(one: QueueOut) -> list[kit.Cell]:
    name = _QUEUES.get(one.queue, one.queue)
    return [name, words.count(one.waiting), words.count(one.running), words.moment(one.oldest_waiting_at, "none waits")]


def _worker(one: WorkerOut) -> list[kit.Cell]:
    def held() -> None:
        if not one.resident:
            kit.write("none", "span")
            return
        with ui.element("details").classes("more"):
            kit.write(words.several(len(one.resident), "adapter"), "summary")
            for digest in one.resident:
                kit.write(words.short(digest), "div", "mono small")

    def name() -> None:
        kit.write(one.hostname, "span")
        kit.write(f"process {one.pid}", "div", "small")
        if not one.healthy:
            kit.write(one.problem or "It cannot work.", "div", "problem small")

    return [
        name,
        one.device,
        ", ".join(one.queues),
        lambda: kit.write(words.short(one.base_digest or "none"), "span", "mono"),
        held,
        words.moment(one.started_at),
        words.moment(one.heartbeat_at),
    ]
