"""The base model on the device of this process, configured by the settings."""

from collections.abc import Callable

from core.ml.serving.resident import Resident, load_base_on
from core.service.config import Settings
from worker.memory import training_memory


class Gpu(Resident):
    """Base model on the worker's device, with a running engine. `on_death` is called once if the engine or its device
    fails (see `Engine`)."""

    def __init__(self, settings: Settings, on_death: Callable[[BaseException], None] = lambda _: None) -> None:
        self.settings = settings
        super().__init__(
            load_base_on(
                settings.device,
                settings.base_model,
                autoencoder=settings.autoencoder,
                threads=settings.torch_threads,
            ),
            adapter_slots=settings.adapter_slots,
            max_rows=settings.max_batch_rows,
            exact=settings.exact,
            fp8=settings.fp8,
            host_cache_bytes=settings.host_cache_bytes,
            max_waiting=settings.max_waiting_images,
            training_share=settings.training_share,
            on_death=on_death,
        )

    @property
    def training_memory_bytes(self) -> int:
        """Bytes of device memory that a training step of a fine-tune that starts now may take."""
        return training_memory(self.device, self.settings.training_memory_bytes)
