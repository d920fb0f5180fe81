"""Adds the adapter that a fine-tune continues from, and the name, note and class names of adapters."""

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

NAMES = {"postgresql": "manifest -> 'class_names'", "sqlite": "json_extract(manifest, '$.class_names')"}


def upgrade() -> None:
    """Takes the class names from the manifests."""
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("from_adapter_id", sa.String(length=40), nullable=True))
    op.create_index("ix_finetunes_from_adapter_id", "finetunes", ["from_adapter_id"])
    with op.batch_alter_table("adapters", schema=None) as batch_op:
        batch_op.add_column(sa.Column("class_names", Json(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("name", sa.String(length=200), nullable=True))
        batch_op.add_column(sa.Column("note", sa.Text(), server_default="", nullable=False))
    op.execute(f"UPDATE adapters SET class_names = {NAMES[op.get_bind().dialect.name]}")
    with op.batch_alter_table("adapters", schema=None) as batch_op:
        batch_op.alter_column("class_names", existing_type=Json(), existing_nullable=False, server_default=None)
        batch_op.alter_column("note", existing_type=sa.Text(), existing_nullable=False, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("adapters", schema=None) as batch_op:
        batch_op.drop_column("note")
        batch_op.drop_column("name")
        batch_op.drop_column("class_names")
    op.drop_index("ix_finetunes_from_adapter_id", "finetunes")
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("from_adapter_id")
