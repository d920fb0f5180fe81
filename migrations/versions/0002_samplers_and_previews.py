"""Samplers' settings and previews of generations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

def upgrade() -> None:
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("eta", sa.Double(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("guidance_from", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("guidance_to", sa.Integer(), nullable=False, server_default="999"))
        batch_op.add_column(sa.Column("preview_count", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "generation_previews",
        sa.Column("generation_id", sa.String(length=40), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("object_key", sa.String(length=500), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["generations.id"], name=op.f("fk_generation_previews_generation_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_generation_previews_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("generation_id", "index", "step", name=op.f("pk_generation_previews")),
    )
    with op.batch_alter_table("generation_previews", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_generation_previews_tenant_id"), ["tenant_id"], unique=False)


def downgrade() -> None:
    op.drop_table("generation_previews")
    with op.batch_alter_table("generations", schema=None) as batch_op:
        for name in ("eta", "guidance_from", "guidance_to", "preview_count"):
            batch_op.drop_column(name)
