"""Resources of a process, as the services that use several of them take them."""

from typing import Protocol

from core.service.config import Settings
from core.service.db.session import Database
from core.service.jobs import Dispatcher
from core.service.storage import ObjectStore


class Resources(Protocol):
    """Settings, database, object store and broker of an API process or a worker."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def store(self) -> ObjectStore: ...

    @property
    def dispatcher(self) -> Dispatcher: ...
