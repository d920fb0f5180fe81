"""Revokes write access to tables that the API's role or the workers' role only reads. By default privileges, both roles
could write every new table."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

READ_ONLY = {"difffit_api": "alembic_version, base_models, workers", "difffit_worker": "alembic_version"}
"""Tables that each role of deploy/postgres/roles.sql only reads. If the service has a single role, it owns the tables,
and keeps write access."""


def upgrade() -> None:
    _change("REVOKE INSERT, UPDATE, DELETE ON {tables} FROM {role}")


def downgrade() -> None:
    _change("GRANT INSERT, UPDATE, DELETE ON {tables} TO {role}")


def _change(statement: str) -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for role, tables in READ_ONLY.items():
        if op.get_bind().scalar(sa.text("SELECT true FROM pg_roles WHERE rolname = :role"), {"role": role}):
            op.execute(statement.format(role=role, tables=tables))
