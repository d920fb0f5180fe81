"""Requests of `difffit generate --batch`: starts them, saves their images, and resumes after an interruption."""

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from difffit.cli.base import State
from difffit.cli.failures import FAILED
from difffit.cli.views import steps_bar

if TYPE_CHECKING:
    from difffit.batches import BatchRequest
    from difffit.errors import InvalidRequest, JobFailed

LOG = "batch.jsonl"
"""File next to the images with a line of JSON for each started generation: its id, and the request."""
_AT_ONCE = 32
"""Maximum number of a batch's generations that wait or run on the server at the same time."""


@dataclass
class Batch:
    """Run of the requests in a file. A later run of the same requests starts no generation again that the log names."""

    state: State
    domain_id: str
    folder: Path
    failed: list[dict[str, Any]] = field(default_factory=list)

    def run(self, requests: "list[BatchRequest]") -> None:
        """Runs the requests, and shows the paths of their images. A rejected or failed request is reported, and does
        not stop the others. Raises typer.Exit if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._work(requests)
        except KeyboardInterrupt:
            self.state.note("Generations that were started continue. Run the same command again to continue the rest.")
            raise
        paths = [path for request in requests for path in request.files(self.folder) if path.is_file()]
        shown = {"images": [str(path) for path in paths], "failed": self.failed}
        self.state.show(shown, "\n".join(map(str, paths)))
        if self.failed:
            self.state.note("Run the same command again to try the failed requests again.")
            raise typer.Exit(FAILED)

    def _work(self, requests: "list[BatchRequest]") -> None:
        log = self._read_log()
        waiting: deque[tuple[BatchRequest, str]] = deque()
        with steps_bar(self.state, "Generating") as bar:
            task = bar.add_task("", total=len(requests), note="requests")
            for number, request in enumerate(requests):
                earlier = log.get(self._key(request))
                if earlier is not None and all(path.is_file() for path in request.files(self.folder)):
                    continue
                if len(waiting) == _AT_ONCE:
                    self._save(*waiting.popleft())
                id = self._unfinished(earlier) or self._start(request)
                if id is not None:
                    waiting.append((request, id))
                bar.update(task, completed=number + 1 - len(waiting))
            while waiting:
                self._save(*waiting.popleft())
                bar.update(task, completed=len(requests) - len(waiting))

    def _unfinished(self, id: str | None) -> str | None:
        """Returns the id of a generation of an earlier run whose images can still be saved, or None."""
        from difffit.errors import NotFound
        from difffit.events import ACTIVE

        if id is None:
            return None
        try:
            generation = self.state.client.generations.get(id)
        except NotFound:
            return None
        return id if generation.status in ACTIVE or len(generation.images) == generation.count else None

    def _start(self, request: "BatchRequest") -> str | None:
        """Starts the generation of a request, and returns its id; None if the server rejects the request."""
        from difffit.errors import InvalidRequest

        try:
            id = self.state.client.generations.create(self.domain_id, **request.settings).id
        except InvalidRequest as error:
            self._report(request, error)
            return None
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps({"generation": id, "request": self._key(request)}) + "\n")
        return id

    def _save(self, request: "BatchRequest", id: str) -> None:
        """Waits for a generation, and writes its images. A file is renamed when it is complete, so that an interrupted
        run leaves no part of an image under its name."""
        from difffit.errors import JobFailed

        try:
            generation = self.state.client.generations.wait(id)
        except JobFailed as error:
            self._report(request, error)
            return
        pictures = self.state.client.generations.pictures(generation)
        for picture, path in zip(pictures, request.files(self.folder), strict=True):
            picture.save(path.with_suffix(".part")).replace(path)

    def _report(self, request: "BatchRequest", error: "InvalidRequest | JobFailed") -> None:
        self.failed.append({"line": request.line, "name": request.name, "code": error.code, "error": error.detail})
        self.state.note(f"Line {request.line} ({request.name}): {error.detail}")

    def _key(self, request: "BatchRequest") -> str:
        """Returns what identifies a request in the log."""
        return json.dumps([self.domain_id, request.name, request.settings], sort_keys=True)

    def _read_log(self) -> dict[str, str]:
        """Returns the ids of generations that earlier runs started, by the key of the request. Ignores a last line that
        is not complete."""
        path, started = self.folder / LOG, {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
                started[entry["request"]] = entry["generation"]
            except (ValueError, KeyError, TypeError):
                continue
        return started
