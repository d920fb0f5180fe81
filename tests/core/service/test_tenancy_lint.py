"""Lint for tenant isolation: queries on tenants' tables use the scope helper, except those listed here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.service.db.models
from core.service.db.base import Base

ROOT = Path(__file__).parents[3]
ROOMS = ("api", "core", "local", "worker")

ADMINISTERED = {"ApiKey", "Tenant"}
"""Models that only administrators use, who see every tenant."""
FREE = {"BaseModelRow", "Worker"}
"""Models that belong to no tenant."""
OWNED = set(core.service.db.models.__all__) - FREE

UNSCOPED = {
    "core/service/tenants/repository.py": "tenants and keys: administrators alone reach its service",
    **dict.fromkeys(
        (f"core/service/jobs/{name}.py" for name in ("claims", "ladder", "rows")),
        "workers claim and keep the rows of every tenant; a claim names one row",
    ),
    "core/service/webhooks/deliveries.py": "workers deliver for every tenant; an attempt names one row",
    "core/service/backup.py": "saves and restores every tenant, for the operator",
    "core/service/orphans.py": "looks for the rows of objects of every tenant",
    "core/service/expiry.py": "removes what is old, of every tenant",
    "core/service/discards.py": "deletes the objects of every tenant whose rows are gone",
    "core/service/metering.py:add_stored_bytes": "of a domain that was looked up, or of a claimed job",
    "core/service/queues.py": "counts the work of all tenants, for the operator",
    "core/service/idempotency.py:begin": "by the key that asks",
    "core/service/idempotency.py:complete": "by the key that asks",
    "core/service/idempotency.py:abandon": "by the key that asks",
    "core/service/generations/service.py:add_preview": "belongs to a generation that this worker has claimed",
    "core/service/idempotency.py:forget": "of the tenant of a domain that was looked up in its scope",
    "core/service/deletions/repository.py:owner": "of a deletion that a worker has claimed",
    "core/service/deletions/repository.py:remove_some": "of a domain or tenant that was looked up, or is deleted",
    "core/service/deletions/repository.py:_removed": "the same",
    "core/service/deletions/repository.py:end_work": "the same",
    "core/service/deletions/repository.py:count_owned": "of a domain or tenant that was looked up in its scope",
    "core/service/deletions/repository.py:_owned": "the same",
    "worker/tasks/finetune.py:_load": "belongs to a fine-tune that this worker has claimed",
    "worker/tasks/generate.py:_load": "belongs to a generation that this worker has claimed",
    "api/notifier.py:Notifier._read": "one query for all who wait; each is only told to look, in its own scope",
}
RAW = {
    "core/service/db/base.py:partial_index": "the condition of an index",
    "core/service/db/roles.py": "PostgreSQL's own catalogue",
    "core/service/db/session.py:_postgresql.begin": "begins a transaction, and tells it whose rows it sees",
    "core/service/db/session.py:_sqlite.begin": "begins a transaction",
}
SYSTEM = {
    "core/service/tenancy.py": "where it is made",
    "api/refused_keys.py:RefusedKeys.record": "who presented them is nobody's tenant",
    "worker/context.py:Context.database": "workers serve every tenant",
    "core/service/retention.py:Retention._step": "removes what is old, of every tenant",
    "core/service/discards.py:remove_page": "deletes the objects of every tenant whose rows are gone",
    "core/service/backup.py:save": "of every tenant, for the operator",
    "core/service/backup.py:restore": "of every tenant, for the operator",
    "core/service/backup.py:_demand_emptiness": "whether there are any tables",
    "core/service/orphans.py:remove_page": "parts of any tenant's upload are none of the orphans",
    "core/service/orphans.py:_spoken_of": "an object of any tenant is none of the orphans",
    "core/service/generations/repository.py:_by_id": "of an administrator or a worker; a tenant has one of its own",
    "core/service/finetunes/service.py:publish": "a worker's, for the domain of a fine-tune that it has claimed",
    "core/service/datasets/repository.py:expired_uploads": "a worker's, of every tenant",
    "core/service/deletions/repository.py:unfinished": "a worker's, of every tenant",
    "core/service/deletions/service.py:advance": "a worker's, of every tenant",
    "core/service/deletions/service.py:_advance": "a worker's, of every tenant",
    "core/service/deletions/service.py:_step": "a worker's, of every tenant",
    "core/service/deletions/service.py:_let_go": "a worker's, of every tenant",
    "core/service/adapters/service.py:deleted": "a worker's: an adapter stays where any tenant has it",
    "core/service/adapters/service.py:quarantine": "a worker's",
    "core/service/adapters/service.py:used": "a worker's",
    "core/service/webhooks/deliveries.py:_disable": "the service's own act, in the audit log",
    "core/service/tenants/service.py:ensure_admin_key": "the first administrator's key, at the start",
    "api/app.py:prepare": "the first administrator's key, at the start",
    "api/auth.py:_by_signed_url": "a signed URL names one object, whosever it is",
    "api/notifier.py:Notifier._read": "one query for all who wait; each is only told to look, in its own scope",
}
"""Allowed users of the system scope, as file or file:function, with the reason."""

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
STATEMENTS = {"select", "update", "delete", "insert", "aliased"}
OF_A_SESSION = {"get", "get_one", "merge", "query"}
OF_A_STATEMENT = {"select_from", "join", "outerjoin"}


def test_every_model_is_owned_administered_or_free() -> None:
    for mapper in Base.registry.mappers:
        columns = {column.name for column in mapper.local_table.columns}
        name = mapper.class_.__name__
        assert (name in FREE | ADMINISTERED) or columns & {"tenant_id", "prefix"}, name


@pytest.mark.parametrize(
    ("kind", "allowed"), [("unscoped", UNSCOPED), ("raw", RAW), ("system", SYSTEM)], ids=["queries", "raw", "system"]
)
def test_all_queries_across_tenants_are_listed(kind: str, allowed: dict[str, str]) -> None:
    places = {f"{path.relative_to(ROOT)}:{name}" for path, name, what in findings(ROOT) if what == kind}
    unexpected = {place for place in places if not {place, place.split(":")[0]} & set(allowed)}
    assert not unexpected, "see tests/core/service/test_tenancy_lint.py: use `scoped`"
    assert set(allowed) <= places | {place.split(":")[0] for place in places}, "a reason without its place"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("scoped(select(Domain), Domain, scope).where(Domain.id == id)", []),
        ("scoped(select(func.count()).select_from(Domain), Domain, scope)", []),
        ("select(Domain)", ["unscoped"]),
        ("select(Domain).where(Domain.tenant_id == tenant_id)", ["unscoped"]),
        ("scoped(select(Domain).join(Dataset), Domain, scope)", ["unscoped"]),
        ("scoped(select(func.count()), Worker, scope).select_from(Domain)", ["unscoped"]),
        ("select(func.count()).select_from(Domain)", ["unscoped"]),
        ("select(func.count()).select_from(model)", ["unscoped"]),
        ("update(Domain)", ["unscoped"]),
        ("select(model)", ["unscoped"]),
        ("sqlalchemy.select(Domain)", ["unscoped"]),
        ("session.get(Domain, id)", ["unscoped"]),
        ("session.get(Worker, id)", []),
        ("session.add(Domain(id=id)), quotas.get('images')", []),
        ("session.execute(text('SELECT 1'))", ["raw"]),
        ("select(Now())", []),
        ("database.session(SYSTEM)", ["system"]),
        ("database.session(Scope(tenant_id=None))", ["system"]),
        ("database.session(Scope(None))", ["system"]),
    ],
)
def test_lint_finds_unscoped_queries(source: str, expected: list[str]) -> None:
    tree = ast.parse(f"def function(session: Session) -> Domain:\n    return {source}")
    assert [what for _, what in of_module(tree)] == expected


def findings(root: Path) -> Iterator[tuple[Path, str, str]]:
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            for name, what in of_module(ast.parse(path.read_text())):
                yield path, name, what


def of_module(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields (function, "unscoped" | "raw" | "system") for the functions of a module and for its top level."""
    for name, nodes in functions(tree, ""):
        if is_unscoped(nodes):
            yield name, "unscoped"
        if any(called(node) in {"text", "exec_driver_sql"} for node in nodes):
            yield name, "raw"
        if any(is_system(node) for node in nodes):
            yield name, "system"


def functions(node: Definition, name: str) -> Iterator[tuple[str, list[ast.AST]]]:
    """Yields every function with the nodes of its body, without those of nested functions."""
    own: list[ast.AST] = []
    inner: list[Definition] = []
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        one = waiting.pop()
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner.append(one)
        else:
            own.append(one)
            waiting += ast.iter_child_nodes(one)
    yield name, own
    for one in inner:
        yield from functions(one, f"{name}.{one.name}".lstrip("."))


def is_unscoped(nodes: list[ast.AST]) -> bool:
    """Returns whether a function has a query that bypasses the scope helper. It does when it names an owned model
    without passing it to `scoped`, or queries a table without naming its model."""
    queries = [node for node in nodes if is_query(node)]
    if not queries:
        return False
    named = {node.id for node in nodes if isinstance(node, ast.Name)}
    scoped = {node.args[1].id for node in nodes if called(node) == "scoped"}  # type: ignore[attr-defined]
    if named & OWNED:
        return bool(named & OWNED - scoped)
    joins = any(called(node) in OF_A_STATEMENT for node in nodes)
    return not named & FREE and (joins or any(is_of_a_table(node) for node in queries))


def is_query(node: ast.AST) -> bool:
    """Returns whether the node is `select(…)`, `sqlalchemy.select(…)` or a session's look-up, but not another `select`
    method."""
    receiver = getattr(getattr(getattr(node, "func", None), "value", None), "id", "")
    if called(node) in STATEMENTS:
        return isinstance(node.func, ast.Name) or receiver in {"sqlalchemy", "sa"}  # type: ignore[attr-defined]
    return called(node) in OF_A_SESSION and receiver == "session"


def is_of_a_table(node: ast.AST) -> bool:
    """Returns whether a query reads a table; `select(Now())` and `select(func.name(…))` read none."""
    assert isinstance(node, ast.Call)
    return not all(isinstance(one, ast.Call) for one in node.args)


def is_system(node: ast.AST) -> bool:
    if called(node) == "Scope":
        given = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "tenant_id")]  # type: ignore[attr-defined]
        return any(isinstance(one, ast.Constant) and one.value is None for one in given)
    return isinstance(node, ast.Name) and node.id == "SYSTEM" and isinstance(node.ctx, ast.Load)


def called(node: ast.AST) -> str:
    """Returns the name of the called function or method, without its object."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
