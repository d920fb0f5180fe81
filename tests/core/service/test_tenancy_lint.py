"""Lint for tenant isolation: finds the statements that the filter of `core.service.db.isolation` does not see, and the
uses of the scope that sees every tenant. Each of them is listed here with its reason."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import core.service.db.models

ROOT = Path(__file__).parents[3]
ROOMS = ("api", "core", "local", "worker")

OWNED = set(core.service.db.models.__all__) - {"BaseModelRow", "Worker"}

UNSEEN = {
    "core/service/keys.py:_presented_key_statement": "finds a key before its owner is known",
    "core/service/keys.py:_presented_key": "runs that statement",
    "core/service/keys.py:_note_use": "notes the use of a key before its owner is known",
    "core/service/deletions.py:_count_owned": "of a domain or tenant that was looked up in its scope",
    "core/service/deletions.py:_owned": "the same",
    "core/service/deletions.py:_remove_rows": "names the table of a row that was looked up",
    "core/service/db/session.py:Database._begun": "begins the transaction",
}
"""Statements that the sessions' filter does not see, as file or file:function, with the reason."""
RAW = {
    "core/service/db/base.py:partial_index": "the condition of an index",
    "core/service/db/roles.py": "PostgreSQL's own catalogue",
    "core/service/db/session.py:_postgresql.begin": "begins a transaction, and tells it whose rows it sees",
    "core/service/db/session.py:_sqlite.begin": "begins a transaction",
}
SYSTEM = {
    "core/service/tenancy.py": "where it is made",
    "core/service/db/isolation.py:_add_filter": "a signed URL shows nothing of a deleted domain",
    "api/refused_keys.py:RefusedKeys.record": "who presented them is nobody's tenant",
    "worker/context.py:Context.database": "workers serve every tenant",
    "core/service/retention.py:Retention._step": "removes what is old, of every tenant",
    "core/service/discards.py:remove_page": "deletes the objects of every tenant whose rows are gone",
    "core/service/backup.py:save": "of every tenant, for the operator",
    "core/service/backup.py:restore": "of every tenant, for the operator",
    "core/service/backup.py:_demand_emptiness": "whether there are any tables",
    "core/service/orphans.py:remove_page": "parts of any tenant's upload are none of the orphans",
    "core/service/orphans.py:_spoken_of": "an object of any tenant is none of the orphans",
    "core/service/deletions.py:advance": "a worker's, of every tenant",
    "core/service/deletions.py:_advance": "a worker's, of every tenant",
    "core/service/deletions.py:_kept": "a worker's, of every tenant",
    "core/service/deletions.py:_step": "a worker's, of every tenant",
    "core/service/deletions.py:_let_go": "a worker's, of every tenant",
    "api/app.py:prepare": "the first administrator's key, at the start",
    "api/auth.py:_by_signed_url": "a signed URL names one object, whosever it is",
    "api/notifier.py:Notifier._read": "one query for all who wait; each is only told to look, in its own scope",
}
"""Allowed users of the system scope, as file or file:function, with the reason."""

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize(
    ("kind", "allowed"), [("unseen", UNSEEN), ("raw", RAW), ("system", SYSTEM)], ids=["unseen", "raw", "system"]
)
def test_all_queries_across_tenants_are_listed(kind: str, allowed: dict[str, str]) -> None:
    places = {f"{path.relative_to(ROOT)}:{name}" for path, name, what in findings(ROOT) if what == kind}
    unexpected = {place for place in places if not {place, place.split(":")[0]} & set(allowed)}
    assert not unexpected, "see tests/core/service/test_tenancy_lint.py"
    assert set(allowed) <= places | {place.split(":")[0] for place in places}, "a reason without a statement"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("select(Domain).where(Domain.id == id)", []),
        ("update(Domain).where(Domain.id.in_(select(Dataset.domain_id)))", []),
        ("select(Domain.__table__.c.id)", ["unseen"]),
        ("select(Base.metadata.tables['domains'].c.id)", ["unseen"]),
        ("session.connection().execute(select(Domain))", ["unseen"]),
        ("update(Domain).where(Domain.id == Dataset.domain_id)", ["unseen"]),
        ("delete(Domain).where(Domain.id == Dataset.domain_id)", ["unseen"]),
        ("session.execute(update(Domain), [{'id': id}])", ["unseen"]),
        ("insert(Domain).from_select(['id'], select(Domain.id))", ["unseen"]),
        ("select(func.min(Domain.id).over())", ["unseen"]),
        ("select(Domain.id, func.row_number().over())", []),
        ("session.execute(text('SELECT 1'))", ["raw"]),
        ("select(Now())", []),
        ("database.session(SYSTEM)", ["system"]),
        ("database.session(SIGNED_URL)", ["system"]),
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
    """Yields (function, "unseen" | "raw" | "system") for the functions of a module and for its top level."""
    for name, nodes in functions(tree, ""):
        if any(is_unseen(node) for node in nodes):
            yield name, "unseen"
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
        child = waiting.pop()
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner.append(child)
        else:
            own.append(child)
            waiting += ast.iter_child_nodes(child)
    yield name, own
    for child in inner:
        yield from functions(child, f"{name}.{child.name}".lstrip("."))


def is_unseen(node: ast.AST) -> bool:
    """Returns whether a node is a part of a statement that the filter does not see: a Core table, a statement of the
    connection itself, a second table of an update or delete, an update by a list of keys, an insert of a select, a
    select of nothing but window functions."""
    match node:
        case ast.Attribute(attr="__table__" | "tables" | "sorted_tables"):
            return True
        case ast.Call(func=ast.Attribute(attr="connection")):
            return True
        case ast.Call(func=ast.Attribute(attr="from_select" | "bulk_update_mappings")):
            return True
        case ast.Call(func=ast.Attribute(attr="execute"), args=[statement, _, *_]):
            return any(called(part) == "update" for part in ast.walk(statement))
        case ast.Call(func=ast.Name(id="select"), args=[_, *_]):
            return all(called(column) == "over" for column in node.args)
        case ast.Call(func=ast.Attribute(attr="where")):
            return is_chain_of(node, {"update", "delete"}) and len(owned_names(node)) > 1
    return False


def is_chain_of(node: ast.AST, functions: set[str]) -> bool:
    """Returns whether a chain of methods, such as `update(Domain).where(…)`, begins with one of these functions."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    return called(node) in functions


def owned_names(node: ast.AST) -> set[str]:
    """Returns the owned models that a statement names outside of its subqueries."""
    if called(node) == "select" or is_chain_of(node, {"select", "exists"}):
        return set()
    own = {node.id} & OWNED if isinstance(node, ast.Name) else set()
    return own.union(*(owned_names(child) for child in ast.iter_child_nodes(node)))


def is_system(node: ast.AST) -> bool:
    if called(node) == "Scope":
        given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "tenant_id")]  # type: ignore[attr-defined]
        return any(isinstance(value, ast.Constant) and value.value is None for value in given)
    return isinstance(node, ast.Name) and node.id in {"SYSTEM", "SIGNED_URL"} and isinstance(node.ctx, ast.Load)


def called(node: ast.AST) -> str:
    """Returns the name of the called function or method, without its object."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
