"""Page for administrators that shows the queues and the live workers."""

import datetime

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import Form
from api.dashboard.frame import frame, page
from api.dashboard.texts import problem, tr
from api.dashboard.user import AdminUser
from difffit.models import Queue, Worker

_REFRESH_SECONDS = 10
_QUEUES = {"datasets": "Data sets", "finetune": "Fine-tunes", "generate": "Generations"}


@page("/fleet")
async def fleet(user: AdminUser) -> None:
    with frame(user, tr("Fleet"), section="Fleet"):
        is_live = ui.checkbox(tr("Refresh every {seconds} seconds", seconds=_REFRESH_SECONDS))
        Form(refresh=is_live).keep()
        ui.timer(_REFRESH_SECONDS, lambda: kit.reload() if is_live.value else None)
        queues = [queue async for queue in user.api.admin.queues()]
        workers = [worker async for worker in user.api.admin.workers()]
        readiness = await user.api.ready()
        for name, warning in readiness.warnings.items():
            kit.write(problem(f"without_{name}", warning), "p", "problem").props("role=alert")
        with kit.card(tr("Queues")):
            kit.table(
                tr("Queues"),
                (tr("Queue"), tr("Waiting"), tr("Running"), tr("Oldest waiting since")),
                [_queue(item) for item in queues],
            )
        with kit.card(tr("Workers"), tr("{workers} alive.", workers=words.several(len(workers), "worker"))):
            if not workers:
                kit.muted(tr("Jobs wait until a worker starts. Start one with: python -m worker"))
            columns = (
                tr("Worker"),
                tr("Device"),
                tr("Queues"),
                tr("Base"),
                tr("Adapters in memory"),
                tr("Started"),
                tr("Last heartbeat"),
            )
            if workers:
                kit.table(tr("Live workers"), columns, [_worker(item) for item in workers])


def _queue(queue: Queue) -> list[kit.Cell]:
    name = tr(_QUEUES.get(queue.queue, queue.queue))
    oldest = words.moment(queue.oldest_waiting_at, "none waiting")
    return [name, words.count(queue.waiting), words.count(queue.running), oldest]


def _worker(worker: Worker) -> list[kit.Cell]:
    def held() -> None:
        if not worker.resident:
            kit.write(tr("none"), "span")
            return
        with ui.element("details").classes("more"):
            kit.write(words.several(len(worker.resident), "adapter"), "summary")
            for digest in worker.resident:
                kit.write(words.short(digest), "div", "mono small")

    def name() -> None:
        kit.write(worker.hostname, "span")
        kit.write(tr("process {pid}", pid=worker.pid), "div", "small")
        if not worker.healthy:
            kit.write(worker.problem or tr("Not healthy."), "div", "problem small")

    return [
        name,
        worker.device,
        ", ".join(worker.queues),
        lambda: kit.write(words.short(worker.base_digest or tr("none")), "span", "mono"),
        held,
        words.moment(worker.started_at),
        tr("{duration} ago", duration=words.duration(_seconds_since(worker.heartbeat_at))),
    ]


def _seconds_since(time: datetime.datetime) -> float:
    return max(0.0, (datetime.datetime.now(datetime.UTC) - time).total_seconds())
