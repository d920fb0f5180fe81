"""Decodes finished latents into pixels on a separate thread, in batches, while the engine continues with its steps."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence

from torch import Tensor

logger = logging.getLogger(__name__)

OnDecoded = Callable[[Tensor | Exception], None]
"""Function that is called with an image's pixels [S, S, 3], or with the exception that decoding raised."""


class Decoder:
    """Queue of latents, and the thread that decodes all waiting latents together. `decode` is given up to `max_batch`
    latents [C, H, W], and returns 8-bit pixels [S, S, 3] for each."""

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
        while self._decode_next():
            pass

    def _decode_next(self) -> bool:
        """Waits for latents and decodes them. Returns False at the end of the queue. This is not part of the loop,
        since its variables would keep the last images in memory while the thread waits."""
        if (first := self._waiting.get()) is None:
            return False
        batch = [first]
        while len(batch) < self.max_batch and not self._waiting.empty():
            if (following := self._waiting.get()) is None:
                self._waiting.put(None)  # puts the end marker back, for the next call
                break
            batch.append(following)
        self._decode(batch)
        return True

    def _decode(self, batch: Sequence[tuple[Tensor, OnDecoded]]) -> None:
        """Decodes a batch and calls each latent's `on_decoded`. If the batch fails, decodes each latent separately, so
        that one bad latent or a lack of memory does not fail the other images."""
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
            except BaseException:  # an error in a callback must not end the thread that decodes for all
                logger.exception("a listener of the decoder failed")
