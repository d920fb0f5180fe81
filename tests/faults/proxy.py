"""A proxy between a client and a server, whose connections can be cut, reset, frozen or delayed."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from typing import Literal, Self

from tests.services import free_port

Fault = Literal["none", "refused", "reset", "cut", "frozen"]
"""A cut connection is closed like a complete one; a reset connection is aborted."""
Direction = Literal["up", "down"]
_CHUNK = 2**16


class Proxy:
    """Proxy that forwards `port` to `target` until a fault strikes."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.fault: Fault = "none"
        self.direction: Direction = "up"
        self._left = self._after = 0
        self._times: int | None = None
        self.breaks = 0
        self._seconds, self._marker = 0.0, b""
        self.waiting = 0
        """Number of responses that are delayed right now."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def strike(self, fault: Fault, after_bytes: int, direction: Direction = "up", *, times: int | None = None) -> None:
        """Breaks connections after `after_bytes` in total in a direction: up to the server, or down. With `times`, this
        repeats so often, each time after as many bytes."""
        self._left, self.direction, self.fault = after_bytes, direction, fault
        self._after, self._times = after_bytes, times

    def delay(self, seconds: float, marker: str = "") -> None:
        """Delays each response, or only those to requests that contain the marker."""
        self._seconds, self._marker = seconds, marker.encode()

    def mend(self) -> None:
        self.fault, self._seconds = "none", 0.0

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lets closed transports finish

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "refused":
            writer.transport.abort()
            return
        with suppress(OSError, asyncio.CancelledError):  # cancelled when the proxy ends; asyncio would log the error
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            asked = asyncio.Event()
            try:
                await asyncio.wait(
                    [
                        asyncio.create_task(self._pass_on("up", reader, up_writer, writer, asked)),
                        asyncio.create_task(self._pass_on("down", up_reader, writer, writer, asked)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                up_writer.close()
        writer.close()

    async def _pass_on(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        asked: asyncio.Event,
    ) -> None:
        """Forwards one direction. `asked` is set while a request waits for a response that is to be delayed."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if direction == "up" and self._seconds and self._marker in chunk:
                    asked.set()
                elif direction == "down" and asked.is_set():
                    asked.clear()
                    await self._hold()
                if direction == self.direction and self.fault != "none":
                    self._left -= len(chunk)
                    if self._left < 0:
                        writer.write(chunk[: self._left])  # negative: drops the bytes beyond the limit
                        await writer.drain()
                        await self._break(client)
                        return
                writer.write(chunk)
                await writer.drain()

    async def _hold(self) -> None:
        self.waiting += 1
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.waiting -= 1

    async def _break(self, client: asyncio.StreamWriter) -> None:
        self.breaks += 1
        fault = self.fault
        if self._times is not None:
            self._left, self._times = self._after, self._times - 1
            self.fault = fault if self._times else "none"
        while self.fault == "frozen":
            await asyncio.sleep(0.1)
        if fault == "cut":
            return
        sock: socket.socket = client.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.transport.abort()
