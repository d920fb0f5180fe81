"""Fine-tunes at twice the base's image size."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("image_size", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("image_size")
