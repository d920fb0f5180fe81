"""Moves the training settings of fine-tunes from a column each to one JSON column."""

from typing import Any

import sqlalchemy as sa

from migrations.gathering import gather, scatter

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

COLUMNS: tuple[sa.Column[Any], ...] = (
    sa.Column("steps", sa.Integer()),
    sa.Column("batch_size", sa.Integer()),
    sa.Column("learning_rate", sa.Double()),
    sa.Column("seed", sa.BigInteger()),
)


def upgrade() -> None:
    """Moves the training settings to one JSON column. Adds `gradient_clip` as 1.0, the value that workers had used
    without a column for it."""
    gather("finetunes", "training", COLUMNS, lambda row: _shared(row) | {"gradient_clip": 1.0})


def downgrade() -> None:
    scatter("finetunes", "training", COLUMNS, _shared)


def _shared(values: dict[str, Any]) -> dict[str, Any]:
    return {column.name: values[column.name] for column in COLUMNS}
