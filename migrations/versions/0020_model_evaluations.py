"""Renames the columns that count the model evaluations of generations and usage days from `row_steps` to
`model_evaluations`."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TABLES = ("generations", "usage_days")


def upgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN row_steps TO model_evaluations")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN model_evaluations TO row_steps")
