"""The Celery application of the workers; `python -m worker` starts one."""

import threading
from typing import Any

from celery import Celery, signals

from core.broker import CeleryDispatcher, make_celery
from core.config import Settings, get_settings
from core.logs import configure_logs
from worker.context import Context, get_context, set_context
from worker.maintenance import Maintenance
from worker.tasks import datasets, finetune, generate
from worker.webhooks import Webhooks

app: Celery = make_celery(get_settings())
for module in (datasets, finetune, generate):
    module.register(app)


def start(settings: Settings) -> None:
    """Before the first message is taken: the base is resident, and lost rows are looked for.

    Not a signal's receiver, since Celery only logs what those raise. Raises BaseMissing, CheckpointInvalid,
    StorageUnavailable, DatabaseUnavailable.
    """
    context = Context(settings, CeleryDispatcher(app))
    context.start()
    set_context(context)
    Maintenance(context).start()
    Webhooks(context).start()


@signals.setup_logging.connect
def _logs(**_: Any) -> None:
    configure_logs(get_settings())


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    """Runs inside the signal handler: it may only start a thread, which ends the engine."""
    threading.Thread(target=get_context().stop, name="stop").start()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    get_context().close()
