"""Adds the index that finds the newest generation of a domain's active version, whose image is the domain's cover."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

INDEX = "ix_generations_covers"


def upgrade() -> None:
    unexpired = sa.text("expired_at IS NULL")
    op.create_index(
        INDEX, "generations", ["adapter_id", "id"], postgresql_where=unexpired, sqlite_where=unexpired
    )


def downgrade() -> None:
    op.drop_index(INDEX, "generations")
