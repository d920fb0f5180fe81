"""Base class of all models, with the column types, naming convention and ids of the tables."""

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
    """Column type for timezone-aware times. Values are converted to UTC; SQLite stores them without a time zone."""

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
    """Column type for JSON, which is JSONB on PostgreSQL. Imports SQLAlchemy's PostgreSQL dialect only if it is in
    use."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return self.impl_instance
        from sqlalchemy.dialects.postgresql import JSONB

        return dialect.type_descriptor(JSONB(none_as_null=True))


class Jsonable(Protocol):
    """Protocol of classes whose instances a `JsonOf` column can hold: convertible to JSON and back."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self: ...


class JsonOf(Json):
    """Column type for JSON whose values are instances of the class `kind`."""

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
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012  # RETURNING fetches server defaults


class Now(FunctionElement[datetime.datetime]):
    """SQL expression for the current time of the database's clock, with fractions of a second. Leases use this clock,
    since the clocks of workers may differ."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(Now, "postgresql")
def _now_postgresql(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(Now, "sqlite")
def _now_sqlite(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


def new_id(prefix: str) -> str:
    """Returns a new unique id that sorts by creation time, such as `dom_01jd…`."""
    return f"{prefix}_{str(ULID()).lower()}"


def partial_index(name: str, condition: str, *columns: str) -> Index:
    """Returns an index of only the rows that meet the SQL condition, for look-ups of few rows in a large table."""
    return Index(name, *columns, postgresql_where=text(condition), sqlite_where=text(condition))


Id = Annotated[str, mapped_column(String(40), primary_key=True)]
Created = Annotated[datetime.datetime, mapped_column(server_default=Now())]


class TenantOwned:
    """Mixin for tables whose rows belong to a tenant. `core.service.db.isolation` restricts statements to rows of the
    session's tenant."""

    tenant_id: Mapped[str] = mapped_column(String(40), ForeignKey("tenants.id", ondelete="CASCADE"), index=True)


class DomainOwned(TenantOwned):
    """Mixin for tables whose rows belong to a domain. `core.service.db.isolation` hides rows of a deleted domain, which
    workers have yet to delete, from its tenant."""

    domain_id: Mapped[str] = mapped_column(String(40), ForeignKey("domains.id", ondelete="CASCADE"), index=True)
