"""One worker process. Celery receives wake-up messages, and the runner's threads do the work."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.worker import state

from core.service.broker import CeleryDispatcher, make_celery
from core.service.config import Settings
from core.service.db.models import Dataset, Finetune, Generation
from core.service.jobs import KINDS
from core.service.logs import configure_logs
from worker.context import Context
from worker.maintenance import Maintenance
from worker.runner import Attempt, Runner
from worker.tasks.datasets import Validation
from worker.tasks.finetune import FinetuneRun
from worker.tasks.generate import Drawing
from worker.webhooks import Webhooks

logger = logging.getLogger(__name__)
ATTEMPTS: dict[type[Any], type[Attempt[Any]]] = {Dataset: Validation, Finetune: FinetuneRun, Generation: Drawing}


def run(settings: Settings) -> str | None:
    """Runs the worker until it is asked to stop, or until a problem prevents it from working. Returns the problem, with
    which the process exits so that a supervisor starts a new worker, or None.

    Raises BaseMissing, CheckpointInvalid, StorageUnavailable, DatabaseUnavailable before it claims the first job.
    """
    app = make_celery(settings)
    context = Context(settings, CeleryDispatcher(app))
    context.start()
    # A full garbage collection stops all threads: half a second with the objects of all modules, a moment without them.
    gc.collect()
    gc.freeze()
    runner = Runner(context, ATTEMPTS)
    for model in context.serves:
        app.task(name=KINDS[model].task)(_waker(runner, model))
    signals.setup_logging.connect(lambda **_: configure_logs(settings), weak=False)

    def stop_engine(*_: object, **__: object) -> None:  # called in a signal handler, so it only starts a thread
        threading.Thread(target=context.stop).start()

    def stop(*_: object) -> None:
        state.should_stop = os.EX_OK  # type: ignore[assignment]  # the types know only the value at the start
        stop_engine()

    signals.worker_shutting_down.connect(stop_engine, weak=False)
    signal.signal(signal.SIGTERM, stop)  # until Celery sets its handler: a first job may lose the device before that
    Maintenance(context, runner).start()
    Webhooks(context).start()
    runner.start()
    options = ["worker", "--pool", "threads", "--concurrency", "1", "--queues", settings.worker_queues]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", settings.log_level]
    try:
        app.worker_main(options)
    finally:
        if not context.stopping.is_set():
            context.problem = "The broker's consumer ended."
        context.stop()
        runner.join()
        context.close()
    return context.problem


def _waker(runner: Runner, model: type[Any]) -> Callable[[str], None]:
    def wake(_id: str) -> None:
        """Handles a wake-up message: wakes a thread, which claims the queue's next row. The id in the message is not
        used."""
        runner.wake(model)

    return wake
