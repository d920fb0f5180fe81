"""Protocol for the resources of a process, for functions that need several of them."""

from typing import Protocol

from core.service.config import Settings
from core.service.db.session import Database
from core.service.jobs import Dispatcher
from core.service.storage import ObjectStore


class Resources(Protocol):
    """Settings, database, object store and job dispatcher of an API process or a worker."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def store(self) -> ObjectStore: ...

    @property
    def dispatcher(self) -> Dispatcher: ...
