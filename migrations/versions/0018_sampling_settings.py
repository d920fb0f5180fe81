"""Moves the sampling settings of generations from a column each to one JSON column, so that a new setting needs no
migration."""

from typing import Any

import sqlalchemy as sa

from migrations.gathering import gather, scatter

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COLUMNS: tuple[sa.Column[Any], ...] = (
    sa.Column("steps", sa.Integer()),
    sa.Column("guidance_scale", sa.Double()),
    sa.Column("guidance_from", sa.Integer(), server_default="0"),
    sa.Column("guidance_to", sa.Integer(), server_default="999"),
    sa.Column("sampler", sa.String(length=20)),
    sa.Column("eta", sa.Double(), server_default="0"),
)
SHARED = ("steps", "guidance_scale", "sampler", "eta")


def upgrade() -> None:
    gather("generations", "sampling", COLUMNS, _settings)


def downgrade() -> None:
    """Moves the sampling settings back to a column each. Settings that had no such column are lost."""
    scatter("generations", "sampling", COLUMNS, _columns)


def _settings(row: dict[str, Any]) -> dict[str, Any]:
    interval = [row["guidance_from"], row["guidance_to"]]
    return {name: row[name] for name in SHARED} | {"guidance_interval": interval}


def _columns(settings: dict[str, Any]) -> dict[str, Any]:
    lowest, highest = settings["guidance_interval"]
    return {name: settings[name] for name in SHARED} | {"guidance_from": lowest, "guidance_to": highest}
