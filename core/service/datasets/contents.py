"""Contents of a data set: its accepted images and its rejected files. The database extracts pages from the JSON columns
of the data set's row, since the columns may hold megabytes."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, column, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from core.artifact.errors import NotFound
from core.service.datasets.service import get
from core.service.db.base import Json
from core.service.db.models import Dataset
from core.service.db.models.datasets import thumbnails_key
from core.service.db.paging import Page, PageRequest, number_of, page_of
from core.service.storage import ObjectStore


@dataclass(frozen=True)
class Entry:
    """Accepted image or rejected file of a data set."""

    number: int
    """Number of the entry among the data set's accepted images, or among its rejected files, from 1."""
    value: dict[str, Any]
    """The entry as JSON: of `report.Member` or `report.Remark`."""


@dataclass(frozen=True)
class ImageFilter:
    """Conditions on a data set's images. None means any."""

    class_id: int | None = None
    warning: str | None = None
    """Code of a warning."""


@dataclass(frozen=True)
class StoredThumbnail:
    """Place of a thumbnail: its bytes are `size` bytes of the object `key`, from `offset`."""

    key: str
    offset: int
    size: int

    def read(self, store: ObjectStore) -> bytes:
        """Returns the thumbnail as JPEG. Raises NotFound, StorageUnavailable."""
        with store.open(self.key) as file:
            file.seek(self.offset)
            return file.read(self.size)


def rejected(session: Session, id: str, request: PageRequest) -> Page[Entry]:
    """Returns a page of a data set's rejected files, in the order of the zip. Raises NotFound, InvalidCursor."""
    get(session, id)
    return _page(session, request, *_entries(session, id, Dataset.rejected))


def images(session: Session, id: str, request: PageRequest, only: ImageFilter) -> Page[Entry]:
    """Returns a page of a data set's accepted images, in the order of the zip. Raises NotFound, InvalidCursor."""
    get(session, id)
    statement, number, value = _entries(session, id, Dataset.members)
    if only.class_id is not None:
        statement = statement.where(value["class_id"].as_integer() == only.class_id)
    if only.warning is not None:
        statement = statement.where(value["warnings", only.warning, "detail"].as_string().is_not(None))
    return _page(session, request, statement, number, value)


def thumbnail(session: Session, id: str, number: int) -> StoredThumbnail:
    """Returns where the thumbnail of a data set's image is stored. Raises NotFound if the data set, the image or its
    thumbnail does not exist."""
    dataset = get(session, id)
    # By its index: a search through 20,000 entries takes PostgreSQL three times as long.
    member = session.scalar(select(Dataset.members[number - 1]).where(Dataset.id == id))
    if member is None or member.get("thumbnail") is None:
        raise NotFound("thumbnail", f"{id}/{number}")
    zip = dataset.zips[member.get("zip", 0)]
    return StoredThumbnail(thumbnails_key(zip["key"]), *member["thumbnail"])


def _entries(
    session: Session, id: str, entries: InstrumentedAttribute[list[Any]]
) -> tuple[Select[int, dict[str, Any]], ColumnElement[int], ColumnElement[Any]]:
    """Returns the query for the entries of a JSON column of a data set, with the query's columns: the number of an
    entry and its value."""
    if session.get_bind().dialect.name == "postgresql":
        function = func.jsonb_array_elements(entries)
        table = function.table_valued(column("value", Json), with_ordinality="number").render_derived()
        number: ColumnElement[int] = table.c.number
    else:
        table = func.json_each(entries).table_valued(column("key", Integer), column("value", Json))
        number = table.c.key + 1
    value = table.c.value
    statement = select(number, value).select_from(Dataset).join(table, true()).where(Dataset.id == id)
    return statement, number, value


def _page(
    session: Session,
    request: PageRequest,
    statement: Select[int, dict[str, Any]],
    number: ColumnElement[int],
    _value: ColumnElement[Any],
) -> Page[Entry]:
    statement = statement.where(number > number_of(request.cursor)).order_by(number).limit(request.limit + 1)
    entries = [Entry(*row) for row in session.execute(statement)]
    return page_of(entries, request, lambda entry: str(entry.number))
