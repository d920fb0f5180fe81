"""Child process that calls one function with a limit on memory, for decoders whose need of memory is not known before.

The limit is Linux's RLIMIT_DATA; other systems call the function without one. A crash of a decoder ends only the child.
"""

import atexit
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from core.service.datasets.confined import serve; serve(int(sys.argv[2]), sys.argv[3])"
)
_LIMIT_BYTES = 8
"""Bytes of a message that hold the memory limit."""
_DATA_PAGES = 5
"""Index of the number of a process's own writable pages in Linux's `/proc/self/statm`."""


class CallFailed(Exception):
    """Error for a call whose function raised an error, or ended the child process."""


class Confined:
    """Child process for calls of one function, from bytes to bytes. Starts with the first call, and ends with this
    process. Only one thread may call at a time.

    `factory` is `module:name` of a function that returns the function to call. It runs before any limit applies.
    """

    def __init__(self, factory: str) -> None:
        self._factory = factory
        self._child: tuple[Connection, subprocess.Popen[bytes]] | None = None
        atexit.register(self.end)

    def call(self, data: bytes, limit_bytes: int) -> bytes:
        """Returns the function's result. The call may allocate at most `limit_bytes`. Raises CallFailed, and OSError if
        no process can be started."""
        message = limit_bytes.to_bytes(_LIMIT_BYTES) + data
        for _ in range(2):  # again if the child died, since the reason may have been another than this call
            connection, _ = self._child = self._child or self._start()
            try:
                connection.send_bytes(message)
                answer = connection.recv_bytes()
            except (EOFError, ConnectionError):
                self.end()
                continue
            if answer[0]:
                return answer[1:]
            break
        raise CallFailed

    def end(self) -> None:
        """Ends the child process, if there is one."""
        if self._child is not None:
            connection, process = self._child
            self._child = None
            connection.close()
            process.wait()

    def _start(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        here, there = Pipe()
        command = [sys.executable, "-c", _START, json.dumps(sys.path), str(there.fileno()), self._factory]
        with there:
            # A session of its own, so that an interrupt in the terminal does not end a call that this process awaits.
            process = subprocess.Popen(  # noqa: S603  # our own words
                command, pass_fds=[there.fileno()], start_new_session=True, stderr=subprocess.DEVNULL
            )
        return here, process


def serve(descriptor: int, factory: str) -> None:
    """Answers the calls of the process that started this one, until that process ends."""
    module, _, name = factory.partition(":")
    function: Callable[[bytes], bytes] = getattr(import_module(module), name)()
    with Connection(descriptor) as parent, suppress(EOFError):
        while True:
            message = parent.recv_bytes()
            data = message[_LIMIT_BYTES:]
            _limit_memory(int.from_bytes(message[:_LIMIT_BYTES]))
            try:
                answer = b"\1" + function(data)
            except Exception:  # a decoder raises nearly everything on hostile input
                answer = b"\0"
            parent.send_bytes(answer)


def _limit_memory(more_bytes: int) -> None:
    """Allows this process to allocate `more_bytes` in addition to what it has."""
    with suppress(FileNotFoundError):  # without /proc there is no limit
        pages = int(Path("/proc/self/statm").read_text().split()[_DATA_PAGES])
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
