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
            while len(batch) < self.max_batch and not self._waiting.empty():
                if (following := self._waiting.get()) is None:
                    self._waiting.put(None)  # the end, for the loop
                    break
                batch.append(following)
            self._decode(batch)

    def _decode(self, batch: Sequence[tuple[Tensor, OnDecoded]]) -> None:
        """Decodes a batch. If that fails, each image is decoded separately, so that a failing image or a lack of memory
        does not fail the others."""
        images: Sequence[Tensor | Exception]
        try:
            images = self.decode([latent for latent, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for entry in batch:
                    self._decode([entry])
                return
            images = [error]
        for (_, on_decoded), image in zip(batch, images, strict=True):
            try:
                on_decoded(image)
            except BaseException:  # a listener must not end the thread that decodes for all
                logger.exception("a listener of the decoder failed")
