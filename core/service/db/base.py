"""Base class of all tables: naming, types, ids."""

import datetime
from typing import Annotated, Any, ClassVar, Protocol, Self

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, MetaData, String, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from ulid import ULID


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """Aware times in UTC on both databases; SQLite stores them without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times must carry a zone")
        return value.astimezone(datetime.UTC)

    def process_result_value(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


class Json(TypeDecorator[Any]):
    """JSONB on PostgreSQL, whose dialect and its drivers are imported where it is in use."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return self.impl_instance
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))


class Jsonable(Protocol):
    """A value that travels whole: it is stored as JSON, and made from it."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self: ...


class JsonOf(Json):
    """JSON column that holds values of one class."""

    cache_ok = True

    def __init__(self, kind: type[Jsonable]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Jsonable | None, dialect: Dialect) -> dict[str, Any] | None:
        return None if value is None else value.to_json()

    def process_result_value(self, value: dict[str, Any] | None, dialect: Dialect) -> Jsonable | None:
        return None if value is None else self.kind.from_json(value)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime.datetime: UtcDateTime,
        dict[str, Any]: Json,
        list[Any]: Json,
    }
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012  # what the database fills in comes with the statement's answer


class Now(FunctionElement[datetime.datetime]):
    """Clock of the database, with fractions of a second: all workers' leases use this one clock."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


def new_id(prefix: str) -> str:
    """Returns a new sortable id, such as `dom_01jd…`."""
    return f"{prefix}_{str(ULID()).lower()}"


def partial_index(name: str, condition: str, *columns: str) -> Index:
    """Returns an index of only the rows that meet the condition: the few rows of a large table that are looked up."""
    return Index(name, *columns, postgresql_where=text(condition), sqlite_where=text(condition))


Id = Annotated[str, mapped_column(String(40), primary_key=True)]
Created = Annotated[datetime.datetime, mapped_column(server_default=Now())]
DomainId = Annotated[str, mapped_column(String(40), ForeignKey("domains.id", ondelete="CASCADE"), index=True)]


class TenantOwned:
    """Mixin of every table with `tenant_id`. `core.service.db.isolation` filters its rows by the session's tenant."""

    tenant_id: Mapped[str] = mapped_column(String(40), ForeignKey("tenants.id", ondelete="CASCADE"), index=True)
