"""Helpers for migrations that replace several columns by one JSON column, or the reverse. Rows are changed in batches,
so that no statement on a large table comes near the statement timeout."""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json

ROWS = 2000
"""Number of rows that one statement changes."""
Values = dict[str, Any]


def gather(name: str, target: str, columns: Sequence[sa.Column[Any]], to_json: Callable[[Values], Values]) -> None:
    """Replaces `columns` of the table `name` by the JSON column `target`. `to_json` computes a row's JSON value from
    the values of its columns."""
    op.add_column(name, sa.Column(target, Json(), nullable=True))
    _move(name, [*columns, sa.Column(target, Json())], lambda row: {target: to_json(row)})
    with op.batch_alter_table(name, schema=None) as batch_op:
        batch_op.alter_column(target, existing_type=Json(), nullable=False)
        for column in columns:
            batch_op.drop_column(column.name)


def scatter(name: str, source: str, columns: Sequence[sa.Column[Any]], to_columns: Callable[[Values], Values]) -> None:
    """Replaces the JSON column `source` of the table `name` by `columns`. `to_columns` computes the values of a row's
    columns from its JSON value."""
    for column in columns:
        op.add_column(name, sa.Column(column.name, column.type, server_default=column.server_default, nullable=True))
    _move(name, [*columns, sa.Column(source, Json())], lambda row: to_columns(row[source]))
    with op.batch_alter_table(name, schema=None) as batch_op:
        for column in columns:
            batch_op.alter_column(column.name, existing_type=column.type, nullable=False)
        batch_op.drop_column(source)


def _move(name: str, columns: Sequence[sa.Column[Any]], change: Callable[[Values], Values]) -> None:
    table = sa.table(name, sa.column("id"), *(sa.column(column.name, column.type) for column in columns))
    update = table.update().where(table.c.id == sa.bindparam("key"))
    last, connection = "", op.get_bind()
    while rows := connection.execute(sa.select(table).where(table.c.id > last).order_by(table.c.id).limit(ROWS)).all():
        connection.execute(update, [{"key": row.id, **change(dict(row._mapping))} for row in rows])
        last = rows[-1].id
