"""Decodes finished latents into pixels on a separate thread, all waiting ones at once, while the steps continue."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from torch import Tensor

logger = logging.getLogger(__name__)

OnDecoded = Callable[[Tensor | Exception], None]
"""Called with the pixels [S, S, 3] or the exception."""


class Decoder:
    """A queue and the thread that empties it. `decode` turns up to `max_batch` latents [C, H, W] at once into 8-bit
    pixels [S, S, 3]."""

    def __init__(self, decode: Callable[[Sequence[Tensor]], list[Tensor]], max_batch: int) -> None:
        self.decode, self.max_batch = decode, max_batch
        self._waiting: queue.SimpleQueue[tuple[Tensor, OnDecoded] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="decoder", daemon=True)
        self._thread.start()

    def add(self, latent: Tensor, on_decoded: OnDecoded) -> None:
        """Queues a latent [C, H, W]. `on_decoded` is called on the decoder's thread and must be quick."""
        self._waiting.put((latent, on_decoded))

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread after decoding all waiting latents, or gives up waiting for it after `timeout` seconds."""
        self._waiting.put(None)
        self._thread.join(timeout)

    def _loop(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self.max_batch and (following := self._next()) is not None:
                batch.append(following)
            try:
                images = self.decode([latent for latent, _ in batch])
            except Exception:
                self._one_by_one(batch)
            else:
                for (_, on_decoded), image in zip(batch, images, strict=True):
                    _report(on_decoded, image)

    def _next(self) -> tuple[Tensor, OnDecoded] | None:
        try:
            following = self._waiting.get_nowait()
        except queue.Empty:
            return None
        if following is None:
            self._waiting.put(None)  # the end, for the loop
        return following

    def _one_by_one(self, batch: Sequence[tuple[Tensor, OnDecoded]]) -> None:
        """Decodes each image separately, so that a failing image or a lack of memory does not fail the others."""
        for latent, on_decoded in batch:
            try:
                (image,) = self.decode([latent])
            except Exception as error:
                _report(on_decoded, error)
            else:
                _report(on_decoded, image)


def _report(on_decoded: OnDecoded, image: Tensor | Exception) -> None:
    try:
        on_decoded(image)
    except BaseException:  # a listener must not end the thread that decodes for all
        logger.exception("a listener of the decoder failed")
