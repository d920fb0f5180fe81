"""Image requests inside the engine's loop: loads each request's adapter, steps its images in batches with those of
other requests, and delivers the decoded images."""

import logging
from collections.abc import Callable, Sequence
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
    """Accepts image requests and steps them until they end. Only the engine's loop calls the public methods. The
    threads of the cache and the decoder post their results to `inbox`, which the loop reads.

    An error that belongs to one request fails only that request. DeviceLost is raised, and ends the engine.
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
        """Latents of the last step that are to be decoded once the device has computed them, each with the function
        that receives its pixels."""

    def accept(self, ticket: Ticket, loads: Sequence[Load]) -> None:
        """Accepts a request: queues it for sampling, or first starts loading its adapters, for each of which `loads`
        has a function. Raises ValueError when its id is in use or it has no seeds, QueueFull, and the earlier error of
        an adapter that is known to be broken."""
        self.tickets.add(ticket)
        pairs = zip(ticket.request.adapters, loads, strict=True)
        self._on_loaded(ticket, [self.cache.get(digest, load) for digest, load in pairs])

    @property
    def adapters_in_use(self) -> set[str]:
        """Digests of the adapters of unfinished requests, and of those that are being loaded. Any thread may read
        it."""
        tickets = list(self.tickets.by_id.values())
        return {*self.cache.loading, *(digest for ticket in tickets for digest in ticket.request.adapters)}

    def cancel(self, request_id: str) -> None:
        if ticket := self.tickets.by_id.get(request_id):
            self.end(ticket, Cancelled())

    def end_late(self) -> None:
        for ticket in self.tickets.late():
            self.end(ticket, DeadlineExceeded())

    def end(self, ticket: Ticket, error: BaseException) -> None:
        """Fails a request with `error`, accepted or not. Its images leave the batch before the next step."""
        self._forget(ticket)
        ticket.fail(error)

    def stop(self, ending: Callable[[], EngineStopped]) -> None:
        """Fails each request with an error that `ending` makes. Does not touch the scheduler or the runner, which may
        be in an inconsistent state if the loop has died of an error."""
        self._to_decode.clear()
        for ticket in list(self.tickets.by_id.values()):
            self.tickets.remove(ticket)
            self.counters.images += len(ticket.images)
            ticket.fail(ending())

    def step(self, *, ahead: bool = False) -> None:
        """Makes one sampling step of the images that the scheduler chooses. Reports progress while the device computes,
        and passes finished latents and previews to the decoder. With `ahead`, returns while the device computes the
        step, so that it need not wait for the host between two steps; `settle` must follow the last such step."""
        rows = self._step_rows(self._start_rows(self.scheduler.next_rows()))
        if not rows:
            return
        latents_before, self._to_decode = self._to_decode, []
        costs = [row.cost for row in rows]
        self.counters.stepped(rows, costs)
        finished = self.scheduler.advance(rows)
        for row, cost in zip(rows, costs, strict=True):
            if ticket := self.tickets.by_id.get(row.request.id):  # a callback of another image may have failed it
                self._guarded(ticket, partial(self._report_step, ticket, row, cost))
        for row in finished:
            if ticket := self.tickets.by_id.get(row.request.id):
                self._to_decode.append((self.runner.latent(row), partial(self._on_decoded, ticket, row.index)))
            self.runner.end(row)
        self.runner.wait(ahead=ahead)
        self._decode(latents_before)
        if not ahead:
            self._decode(self._to_decode)

    def settle(self) -> None:
        """Waits until the device has finished the last step, and passes its latents and previews to the decoder."""
        if self._to_decode:
            self.runner.wait()
            self._decode(self._to_decode)

    def _decode(self, finished: list[tuple[Tensor, OnDecoded]]) -> None:
        for latent, on_decoded in finished:
            self.decoder.add(latent, on_decoded)
        finished.clear()

    def _start_rows(self, rows: list[Row]) -> list[Row]:
        """Prepares the images that make their first step. Returns the images whose requests are still running: a
        request fails here if its adapter has no such class."""
        for row in rows:
            if (ticket := self.tickets.by_id.get(row.request.id)) and not self.runner.is_started(row):
                self._guarded(ticket, partial(self.runner.start, row, ticket.adapter))
        return [row for row in rows if row.request.id in self.tickets.by_id]

    def _step_rows(self, rows: list[Row]) -> list[Row]:
        """Makes one step of these images, and returns the images that made it. If the step fails, repeats it separately
        for each request, so that only the request that causes the error fails. Raises DeviceLost."""
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

    def _on_loaded(self, ticket: Ticket, loading: "Sequence[Future[FoldedAdapter]]") -> None:
        """Queues a request for sampling, once all its adapters are loaded. Raises the error with which loading
        failed."""
        if ticket not in self.tickets:  # it has ended meanwhile
            return
        for load in loading:
            if not load.done():
                load.add_done_callback(lambda _: self._post(ticket, partial(self._on_loaded, ticket, loading)))
                return
            error = load.exception()
            if isinstance(error, CoreError):
                raise own_copy(error)
        match [load.result() for load in loading]:
            case [adapter]:
                ticket.adapter = adapter.guided_at(ticket.request.sampling.learned_weight)
            case [adapter, other]:
                ticket.adapter = adapter.mixed(other, ticket.request.sampling.mix_weight)
        ticket.reached("loading")
        self.scheduler.add(ticket.request)

    def _on_decoded(self, ticket: Ticket, index: int, image: Tensor | Exception) -> None:
        """Adds a decoded image to its request, or fails the request. Runs on the decoder's thread."""
        if isinstance(image, Exception):
            self._post(ticket, partial(_raise, image))
        elif ticket.deliver(index, image):
            self._post(ticket, partial(self._forget, ticket))

    def _guarded(self, ticket: Ticket, action: Callable[[], None]) -> None:
        """Runs an action that concerns one request, which fails if the action raises. Raises DeviceLost."""
        run_guarded(action, partial(self.end, ticket), self.runner.check)

    def _post(self, ticket: Ticket, action: Callable[[], None]) -> None:
        """Posts an action that concerns one request to the loop. If the action raises, the request fails with its
        error. Runs on any thread."""
        self._inbox.post_unless_ended(action, partial(self.end, ticket))

    def _forget(self, ticket: Ticket) -> None:
        """Removes a request that has ended, together with its images that are not finished."""
        if ticket in self.tickets:
            self.tickets.remove(ticket)
            self.counters.images += len(ticket.images)
            ticket.clear()
            for row in self.scheduler.remove(ticket.request):
                self.runner.end(row)


def _on_preview(ticket: Ticket, index: int, steps_made: int, image: Tensor | Exception) -> None:
    """Passes a decoded preview to `on_preview`; ignores decoding errors. Runs on the decoder's thread."""
    if not isinstance(image, Exception):
        ticket.on_preview(index, steps_made, image)


def _raise(error: Exception) -> None:
    raise error
