"""Drops the foreign key from fine-tunes to data sets, so that a data set can be deleted before its fine-tunes."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

KEY = "fk_finetunes_dataset_id"


def upgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_constraint(KEY, type_="foreignkey")


def downgrade() -> None:
    """Deletes the fine-tunes whose data set was deleted, since the foreign key does not allow them."""
    op.execute("DELETE FROM finetunes WHERE dataset_id NOT IN (SELECT id FROM datasets)")
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.create_foreign_key(KEY, "datasets", ["dataset_id"], ["id"], ondelete="CASCADE")
