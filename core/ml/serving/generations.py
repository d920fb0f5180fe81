"""Image requests in the loop: each waits for its adapter, steps in batches with others, and ends with its images."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from torch import Tensor

from core.artifact.errors import Cancelled, CoreError, EngineStopped
from core.ml.errors import DeadlineExceeded
from core.ml.model.bank import FoldedAdapter
from core.ml.model.device import is_lost
from core.ml.serving.cache import AdapterCache, Load, own_copy
from core.ml.serving.counters import Counters
from core.ml.serving.decoder import Decoder, OnDecoded
from core.ml.serving.inbox import Inbox, run_guarded
from core.ml.serving.request import Row
from core.ml.serving.runner import Runner
from core.ml.serving.scheduler import Scheduler
from core.ml.serving.tickets import Ticket, Tickets

logger = logging.getLogger(__name__)


class Generations:
    """Running image requests. Only the loop calls it; the threads of cache and decoder answer through `inbox`.

    An error of a request ends that request alone. The error of a lost device is raised.
    """

    def __init__(
        self, runner: Runner, cache: AdapterCache, inbox: Inbox, counters: Counters, *, max_rows: int, max_images: int
    ) -> None:
        self.runner, self.cache, self.counters = runner, cache, counters
        self.scheduler = Scheduler(max_rows)
        self.tickets = Tickets(max_images)
        self.decoder = Decoder(runner.decode, runner.pixels.sizes[-1])
        self._inbox = inbox
        self._to_decode: list[tuple[Tensor, OnDecoded]] = []
        """Latents of the step that the device makes, and where their pixels go."""

    def accept(self, ticket: Ticket, load: Load | None) -> None:
        """Starts a request, or first the loading of its adapter. Raises ValueError for its id or its seeds, QueueFull,
        and the error of an adapter that is known to be broken."""
        self.tickets.add(ticket)
        if ticket.request.adapter is None or load is None:
            self._enqueue(ticket)
            return
        loading = self.cache.get(ticket.request.adapter, load)
        if loading.done():
            self._on_loaded(ticket, loading)
        else:
            loading.add_done_callback(lambda done: self._post(ticket, partial(self._on_loaded, ticket, done)))

    def cancel(self, request_id: str) -> None:
        if ticket := self.tickets.by_id.get(request_id):
            self.end(ticket, Cancelled())

    def end_late(self) -> None:
        for ticket in self.tickets.late():
            self.end(ticket, DeadlineExceeded())

    def end(self, ticket: Ticket, error: BaseException) -> None:
        """Fails a request, accepted or not. Its batch rows leave before the next step."""
        self._forget(ticket)
        ticket.fail(error)

    def stop(self, ending: Callable[[], EngineStopped]) -> None:
        """Fails all requests. Leaves the scheduler and the runner alone: the loop may have died in any state."""
        for ticket in list(self.tickets.by_id.values()):
            self.tickets.remove(ticket)
            self.counters.images += len(ticket.images)
            ticket.fail(ending())

    def step(self) -> None:
        """Makes one step. The host works while the device computes; finished images go to the decoder."""
        rows = self._step_rows(self._start_rows(self.scheduler.next_rows()))
        if not rows:
            return
        costs = [row.cost for row in rows]
        self.counters.stepped(rows, costs)
        finished = self.scheduler.advance(rows)
        for row, cost in zip(rows, costs, strict=True):
            if ticket := self.tickets.by_id.get(row.request.id):  # a listener of its first row may have failed it
                run_guarded(partial(self._report_step, ticket, row, cost), partial(self.end, ticket))
        for row in finished:
            if ticket := self.tickets.by_id.get(row.request.id):
                self._to_decode.append((self.runner.latent(row), partial(self._on_decoded, ticket, row.index)))
            self.runner.end(row)
        self.runner.wait()
        for latent, on_decoded in self._to_decode:
            self.decoder.add(latent, on_decoded)
        self._to_decode.clear()

    def _start_rows(self, rows: list[Row]) -> list[Row]:
        """Returns the batch rows that could start. The others' requests fail: no such class."""
        for row in rows:
            if (ticket := self.tickets.by_id.get(row.request.id)) and not self.runner.is_started(row):
                run_guarded(partial(self.runner.start, row, ticket.adapter), partial(self.end, ticket))
        return [row for row in rows if row.request.id in self.tickets.by_id]

    def _step_rows(self, rows: list[Row]) -> list[Row]:
        """Returns the batch rows that made a step. If the step fails, each request steps alone, so that only the faulty
        request fails. Raises DeviceLost when the device has failed."""
        if not rows:
            return []
        try:
            self.runner.step(rows)
            return rows
        except Exception as error:
            if is_lost(error):
                raise
            logger.exception("a step of %d rows failed", len(rows))
            self.counters.failed_steps += 1
            failure = error
        self.runner.check()
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.request.id, []).append(row)
        if len(groups) > 1:
            return [row for group in groups.values() for row in self._step_rows(group)]
        if ticket := self.tickets.by_id.get(rows[0].request.id):
            self.end(ticket, failure)
        return []

    def _report_step(self, ticket: Ticket, row: Row, cost: int) -> None:
        if "queued" not in ticket.timings:
            ticket.reached("queued")
            ticket.timings["activation"] = self.runner.activation_seconds
            self.counters.waited(ticket.timings["queued"])
        ticket.stepped(cost)
        if row.previewed:
            self._to_decode.append((self.runner.x0(row), partial(_on_preview, ticket, row.index, row.position)))

    def _on_loaded(self, ticket: Ticket, loading: "Future[FoldedAdapter]") -> None:
        """Starts a request whose adapter was loaded. Raises the loading's error."""
        if ticket not in self.tickets:  # it has ended meanwhile
            return
        error = loading.exception()
        if isinstance(error, CoreError):
            raise own_copy(error)
        ticket.adapter = loading.result()
        self._enqueue(ticket)

    def _enqueue(self, ticket: Ticket) -> None:
        ticket.reached("loading")
        self.scheduler.add(ticket.request)

    def _on_decoded(self, ticket: Ticket, index: int, image: Tensor | Exception) -> None:
        """Runs on the decoder's thread."""
        if isinstance(image, Exception):
            self._post(ticket, partial(_raise, image))
        elif ticket.deliver(index, image):
            self._post(ticket, partial(self._forget, ticket))

    def _post(self, ticket: Ticket, action: Callable[[], None]) -> None:
        """Leaves an action for the request to the loop. Runs on any thread."""
        self._inbox.post_unless_ended(action, partial(self.end, ticket))

    def _forget(self, ticket: Ticket) -> None:
        """Drops a request that has ended, with its batch rows that are still in flight."""
        if ticket in self.tickets:
            self.tickets.remove(ticket)
            self.counters.images += len(ticket.images)
            for row in self.scheduler.remove(ticket.request):
                self.runner.end(row)


def _on_preview(ticket: Ticket, index: int, steps_made: int, image: Tensor | Exception) -> None:
    """Runs on the decoder's thread. Preview failures are ignored."""
    if not isinstance(image, Exception):
        ticket.on_preview(index, steps_made, image)


def _raise(error: Exception) -> None:
    raise error
