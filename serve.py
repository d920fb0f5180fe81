"""`make serve`: runs the API and a worker on one machine, and restarts either of them when it ends.

Ctrl-C, SIGTERM and a closed terminal stop both; a second signal kills them. docs/decisions/0006-supervision.md compares
this script with libraries for supervision.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress

MODULES = ("api", "worker")
STOP_SECONDS = 120
"""Seconds that a process may take to stop before it is killed: a worker first stores a checkpoint of each fine-tune."""
SHORTEST_PAUSE, LONGEST_PAUSE = 1, 60
"""Minimum and maximum seconds before a restart. The pause doubles with each restart; it is the minimum again after a
process ran for longer than the maximum."""


async def serve() -> None:
    stop, kill = asyncio.Event(), asyncio.Event()

    def handle_signal() -> None:
        (kill if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup, SIGHUP stays ignored
            loop.add_signal_handler(number, handle_signal)
    async with asyncio.TaskGroup() as tasks:
        for module in MODULES:
            tasks.create_task(keep_running(module, stop, kill))


async def keep_running(module: str, stop: asyncio.Event, kill: asyncio.Event) -> None:
    """Runs `python -m module`, and restarts it whenever it ends, until `stop` is set."""
    loop = asyncio.get_running_loop()
    pause = SHORTEST_PAUSE
    while not stop.is_set():
        started = loop.time()
        try:
            end = f"ended with status {await run(module, stop, kill)}"
        except OSError as error:  # the system is out of memory or processes
            end = f"did not start ({error})"
        if loop.time() - started > LONGEST_PAUSE:
            pause = SHORTEST_PAUSE
        if not stop.is_set():
            show(module, f"{end}; it restarts in {pause} s".encode())
            await wait(stop, pause)
            pause = min(2 * pause, LONGEST_PAUSE)


async def run(module: str, stop: asyncio.Event, kill: asyncio.Event) -> int:
    """Runs `python -m module` until it ends; terminates it when `stop` is set, and kills it when `kill` is. Returns its
    exit status, which is negative for a signal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C reaches this process alone, which then stops the others in turn
    )
    assert process.stdout is not None
    output = asyncio.create_task(forward(module, process.stdout))
    end = asyncio.create_task(process.wait())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({end, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not end.done():
        process.terminate()
        killing = asyncio.create_task(kill.wait())
        await asyncio.wait({end, killing}, timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        killing.cancel()
    with suppress(ProcessLookupError):  # kills what is left: the process after its time to stop, or its children
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.wait({output}, timeout=1)
    output.cancel()
    return await end


async def wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def forward(module: str, output: asyncio.StreamReader) -> None:
    """Copies the output of a module's process to this process's output, line by line."""
    rest = b""
    while chunk := await output.read(2**16):
        *lines, rest = (rest + chunk).split(b"\n")
        show(module, *lines)
    if rest:
        show(module, rest)


def show(module: str, *lines: bytes) -> None:
    data = b"".join(f"{module:<6} | ".encode() + line + b"\n" for line in lines)
    with suppress(OSError):  # a closed terminal: the processes still have to be stopped
        while data:
            data = data[os.write(1, data) :]


if __name__ == "__main__":
    asyncio.run(serve())
