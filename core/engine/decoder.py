"""Finished latents become pixels on a thread of their own, as many at once as wait, so that the steps go on."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from torch import Tensor

logger = logging.getLogger(__name__)

Done = Callable[[Tensor | Exception], None]
"""Hears the pixels [S, S, 3], or why there are none."""


class Decoder:
    """`decode` turns latents [C, H, W] into 8-bit pixels [S, S, 3]."""

    def __init__(self, decode: Callable[[Sequence[Tensor]], list[Tensor]], most: int) -> None:
        self.decode, self.most = decode, most
        self._waiting: queue.SimpleQueue[tuple[Tensor, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="decoder", daemon=True)
        self._thread.start()

    def add(self, latent: Tensor, done: Done) -> None:
        self._waiting.put((latent, done))

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread after what waits is done, or leaves it alone after `timeout` seconds."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _loop(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self.most and (following := self._next()) is not None:
                batch.append(following)
            try:
                images = self.decode([latent for latent, _ in batch])
            except Exception:
                self._one_by_one(batch)
            else:
                for (_, done), image in zip(batch, images, strict=True):
                    _report(done, image)

    def _next(self) -> tuple[Tensor, Done] | None:
        try:
            following = self._waiting.get_nowait()
        except queue.Empty:
            return None
        if following is None:
            self._waiting.put(None)  # the end, for the loop
        return following

    def _one_by_one(self, batch: Sequence[tuple[Tensor, Done]]) -> None:
        """The failing one, or a lack of memory, must not take the others along."""
        for latent, done in batch:
            try:
                (image,) = self.decode([latent])
            except Exception as error:
                _report(done, error)
            else:
                _report(done, image)


def _report(done: Done, image: Tensor | Exception) -> None:
    try:
        done(image)
    except BaseException:  # a listener must not end the thread that draws for all
        logger.exception("a listener of the decoder failed")
