"""The tenant filter of sessions, proved for each kind of statement, on both databases.

Sessions here filter by a tenant while PostgreSQL's row-level security lets them reach every row, so that only the
filter has an effect.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import (
    Connection,
    Executable,
    delete,
    event,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.engine.interfaces import CacheStats
from sqlalchemy.orm import Session, aliased, joinedload, lazyload, selectinload, subqueryload

from core.service.db.base import Base, DomainOwned, Now, TenantOwned
from core.service.db.isolation import scope_of, set_scope
from core.service.db.models import Adapter, Domain, Finetune, Generation, GenerationImage, Tenant
from core.service.db.session import Database
from core.service.tenancy import SIGNED_URL, SYSTEM, Scope
from tests.core.service.rows import tenant_with_everything

Same = aliased(Domain)
_domains = select(Domain.tenant_id)
_cte = _domains.cte()
_union = union_all(_domains, select(Generation.tenant_id))

SELECTS: dict[str, Executable] = {
    "a column": select(Domain.tenant_id),
    "an entity's column beside a condition": select(Domain.tenant_id).where(Domain.name != "none"),
    "an alias": select(Same.tenant_id),
    "an alias joined to its table": select(Same.tenant_id).join(Domain, Domain.name == Same.name),
    "the other side of that join": select(Domain.tenant_id).join(Same, Domain.name == Same.name),
    "a join": select(Finetune.tenant_id).join(Adapter, Adapter.method == Finetune.method),
    "the right side of an outer join": select(Finetune.tenant_id)
    .select_from(Tenant)
    .outerjoin(Finetune, Finetune.tenant_id == Tenant.id)
    .where(Finetune.id.is_not(None)),
    "a join along a relationship": select(GenerationImage.tenant_id).select_from(Generation).join(Generation.images),
    "a subquery": select(_domains.subquery().c.tenant_id),
    "a scalar subquery": select(_domains.order_by(Domain.tenant_id.desc()).limit(1).scalar_subquery()),
    "a common table expression": select(_cte.c.tenant_id),
    "a union": _union,
    "a union in a subquery": select(_union.subquery().c.tenant_id),
    "a group": select(Domain.tenant_id).group_by(Domain.tenant_id).having(func.count() > 0),
    "distinct rows": select(Domain.tenant_id).distinct(),
    "a function of a column": select(func.max(Domain.tenant_id)),
    "a window beside a column": select(Domain.tenant_id, func.row_number().over(order_by=Domain.id)),
    "tenants themselves": select(Tenant.id),
}
"""Statements that return ids of tenants. Without the filter each of them returns both."""

COUNTS: dict[str, Executable] = {
    "select_from": select(func.count()).select_from(Domain),
    "a table that only the condition names": select(func.count()).where(Domain.name == "domain"),
    "a count of keys": select(func.count(Domain.id)),
    "IN": select(func.count(Tenant.id)).where(Tenant.id.in_(select(Domain.tenant_id))),
}
"""Statements that count domains, of which each tenant has one."""

HIDDEN: dict[str, Callable[[Scope], Executable]] = {
    "EXISTS": lambda other: select(exists().where(Domain.tenant_id == other.tenant)),
    "EXISTS of a select": lambda other: select(select(Domain.id).where(Domain.tenant_id == other.tenant).exists()),
    "EXISTS for each row": lambda other: select(func.count(Tenant.id) > 0).where(
        exists().where(Generation.id == GenerationImage.generation_id, GenerationImage.tenant_id == other.tenant)
    ),
    "a relationship's any": lambda other: select(func.count(Generation.id) > 0).where(
        Generation.images.any(GenerationImage.tenant_id == other.tenant)
    ),
    "a constant": lambda other: select(func.count(literal(1)) > 0).where(Domain.tenant_id == other.tenant),
}
"""Statements that ask for another tenant's rows; they must find none."""

BLIND: dict[str, Callable[[], Executable]] = {
    "a Core table": lambda: select(Domain.__table__.c.tenant_id),
    "a count of a Core table": lambda: select(Domain.__table__.c.tenant_id).select_from(Domain.__table__),
    "a window alone": lambda: select(func.min(Domain.tenant_id).over(partition_by=Domain.tenant_id)),
}
"""Statements that the filter does not see. The lint lists them, and row-level security still restricts them."""


@dataclass(frozen=True)
class Two:
    database: Database
    own: Scope
    other: Scope

    @contextmanager
    def session(self, scope: Scope | None) -> Iterator[Session]:
        """Opens a session with the filter for `scope` and without the restrictions of row-level security."""
        with self.database.session(SYSTEM) as session:
            set_scope(session, scope)
            yield session


@pytest.fixture
def two(database: Database) -> Two:
    """Two tenants with a row in every table; the other one has an image in a generation of the first."""
    own, other = (tenant_with_everything(database, name) for name in ("own", "other"))
    with database.session() as session:
        generation = session.scalars(select(Generation.id).where(Generation.tenant_id == own.tenant)).one()
        size = {"size_bytes": 1, "width": 8, "height": 8, "sha256": "0" * 64, "object_key": "k", "seed": 0}
        session.add(
            GenerationImage(generation_id=generation, domain_id="dom_other", tenant_id=other.tenant, index=1, **size)
        )
    return Two(database, own, other)


def tenants_of(session: Session, statement: Executable) -> set[str]:
    return {row[0] for row in session.execute(statement)}


def test_selects_return_the_rows_of_the_sessions_tenant(two: Two) -> None:
    with two.session(SYSTEM) as session:
        unfiltered = {name: len(tenants_of(session, statement)) for name, statement in SELECTS.items()}
    assert unfiltered == dict.fromkeys(SELECTS, 2) | {"a scalar subquery": 1, "a function of a column": 1}
    for scope in (two.own, two.other):
        with two.session(scope) as session:
            seen = {name: tenants_of(session, statement) for name, statement in SELECTS.items()}
            counts = {name: session.execute(statement).scalar_one() for name, statement in COUNTS.items()}
        assert seen == {name: {scope.tenant} for name in SELECTS}
        assert counts == dict.fromkeys(COUNTS, 1)


def test_session_without_a_scope_sees_no_rows(two: Two) -> None:
    with two.session(None) as session:
        assert {name for name, statement in SELECTS.items() if tenants_of(session, statement) - {None}} == set()
        with pytest.raises(LookupError, match="no scope"):
            scope_of(session)


def test_conditions_find_no_rows_of_another_tenant(two: Two) -> None:
    for scope, answer in ((SYSTEM, True), (two.own, False)):
        with two.session(scope) as session:
            answers = {name: session.execute(ask(two.other)).scalar_one() for name, ask in HIDDEN.items()}
        assert {name: bool(value) for name, value in answers.items()} == dict.fromkeys(HIDDEN, answer)


@pytest.mark.parametrize("load", [lazyload, selectinload, subqueryload, joinedload])
def test_relationships_load_the_rows_of_the_sessions_tenant(two: Two, load: Any) -> None:
    for scope, count in ((SYSTEM, 2), (two.own, 1)):
        with two.session(scope) as session:
            statement = select(Generation).where(Generation.tenant_id == two.own.tenant)
            generation = session.scalars(statement.options(load(Generation.images))).unique().one()
            assert len(generation.images) == count


def test_look_up_by_key_finds_no_row_of_another_tenant(two: Two) -> None:
    with two.session(SYSTEM) as session:
        ids = {row.tenant_id: row.id for row in session.scalars(select(Domain))}
    for options in ({}, {"with_for_update": True}, {"populate_existing": True}):
        with two.session(two.own) as session:
            assert session.get(Domain, ids[two.other.tenant], **options) is None
            assert session.get(Domain, ids[two.own.tenant], **options) is not None
    with two.session(two.own) as session:
        assert session.get(Tenant, two.other.tenant) is None
        domain = session.get_one(Domain, ids[two.own.tenant])
        session.refresh(domain, with_for_update=True)
        session.expire(domain)
        assert domain.name == "domain"
        assert session.query(Domain).count() == 1


def test_updates_and_deletes_change_the_rows_of_the_sessions_tenant(two: Two) -> None:
    changed = update(Generation).values(class_id=7)
    with two.session(two.own) as session:
        assert session.execute(changed).rowcount == 1
        assert session.execute(changed.where(Generation.tenant_id == two.other.tenant)).rowcount == 0
        assert tenants_of(session, changed.returning(Generation.tenant_id)) == {two.own.tenant}
        others = select(GenerationImage.generation_id).where(GenerationImage.tenant_id == two.other.tenant)
        assert session.execute(changed.where(Generation.id.in_(others))).rowcount == 0
        assert session.query(Generation).update({"class_id": 8}) == 1
        removed = delete(GenerationImage)
        assert session.execute(removed.where(GenerationImage.tenant_id == two.other.tenant)).rowcount == 0
        keys = tuple_(GenerationImage.generation_id, GenerationImage.index)
        every = select(GenerationImage.generation_id, GenerationImage.index)
        assert tenants_of(session, removed.where(keys.in_(every)).returning(GenerationImage.tenant_id)) == {
            two.own.tenant
        }
    with two.session(SYSTEM) as session:
        assert tenants_of(session, select(GenerationImage.tenant_id)) == {two.other.tenant}
        untouched = select(Generation.class_id).where(Generation.tenant_id == two.other.tenant)
        assert session.scalars(untouched).all() == [0]


def test_new_rows_are_inserted_unchanged(two: Two) -> None:
    with two.session(two.own) as session:
        values = {"id": "dom_new", "tenant_id": two.own.tenant, "name": "new", "base_model": "mini"}
        session.execute(insert(Domain), [values])
        assert session.get_one(Domain, "dom_new").name == "new"


def test_row_level_security_filters_statements_that_the_filter_misses(two: Two) -> None:
    """The lint exists for these kinds of statements. If the filter learns to see one, the lint can become shorter."""
    with two.session(two.own) as session:
        seen = {name: len(tenants_of(session, statement())) for name, statement in BLIND.items()}
    assert seen == dict.fromkeys(BLIND, 2)
    joined = update(Generation).where(Generation.id == GenerationImage.generation_id, GenerationImage.index == 1)
    with two.session(two.own) as session:
        assert session.execute(joined.values(class_id=9)).rowcount == 1, "an image of another tenant must not count"
    if two.database.engine.dialect.name == "postgresql":
        with two.database.session(two.own) as session:
            assert {len(tenants_of(session, statement())) for statement in BLIND.values()} == {1}
            assert session.execute(joined.values(class_id=9)).rowcount == 0


def test_every_table_with_a_tenant_is_filtered() -> None:
    owned = {mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, TenantOwned)}
    tables = {table.name for table in Base.metadata.sorted_tables} - {"base_models", "workers"}
    assert {model.__tablename__ for model in owned} == tables
    in_domains = {model.__tablename__ for model in owned if issubclass(model, DomainOwned)}
    assert in_domains == {table.name for table in Base.metadata.sorted_tables if "domain_id" in table.columns}


def test_rows_of_a_deleted_domain_are_seen_by_workers_alone(two: Two) -> None:
    with two.session(SYSTEM) as session:
        session.execute(update(Domain).where(Domain.tenant_id == two.own.tenant).values(deleted_at=Now()))
    models = {mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, DomainOwned)}
    seen = {}
    for scope in (SYSTEM, SIGNED_URL, two.own, two.other):
        with two.session(scope) as session:
            rows = {model: set(session.scalars(select(model.tenant_id).distinct())) for model in models}
            seen[scope] = rows
            if scope == two.own:
                assert session.execute(update(Generation).values(class_id=9)).rowcount == 0
                assert session.execute(delete(GenerationImage)).rowcount == 0
    both = {two.own.tenant, two.other.tenant}
    expected = {SYSTEM: both, SIGNED_URL: {two.other.tenant}, two.own: set(), two.other: {two.other.tenant}}
    assert seen == {scope: dict.fromkeys(models, rows) for scope, rows in expected.items()}


def test_tenants_share_the_compiled_statements(two: Two) -> None:
    hits: list[CacheStats] = []

    def note(_connection: Connection, _cursor: Any, _sql: str, _values: Any, context: Any, _many: bool) -> None:
        hits.append(context.cache_hit)

    def read(scope: Scope) -> None:
        with two.session(scope) as session:
            session.scalars(select(Domain).where(Domain.name == "domain").order_by(Domain.id)).one()

    read(two.own)
    event.listen(two.database.engine, "after_cursor_execute", note)
    read(two.other)
    assert hits.count(CacheStats.CACHE_HIT) == 1
    assert CacheStats.CACHE_MISS not in hits
