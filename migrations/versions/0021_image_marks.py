"""Adds favourites and labels of images, the domain's id of each image, and indexes for lists of images and generations
by filters."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

NEWEST = ["tenant_id", "generation_id", "index"]
INDEXES = (
    ("ix_generation_images_tenant_id_generation_id_index", "generation_images", NEWEST, None),
    (
        "ix_generation_images_domain_id_generation_id_index",
        "generation_images",
        ["domain_id", "generation_id", "index"],
        None,
    ),
    ("ix_generation_images_tenant_id_seed", "generation_images", ["tenant_id", "seed"], None),
    ("ix_generation_images_favourites", "generation_images", NEWEST, "favourite_since IS NOT NULL"),
    ("ix_generation_images_labelled", "generation_images", NEWEST, "label IS NOT NULL"),
    ("ix_generations_tenant_id_id", "generations", ["tenant_id", "id"], None),
    ("ix_generations_domain_id_class_name_id", "generations", ["domain_id", "class_name", "id"], None),
    ("ix_generations_adapter_id_id", "generations", ["adapter_id", "id"], None),
)
"""Name, table, columns and condition of each index."""


def upgrade() -> None:
    with op.batch_alter_table("generation_images", schema=None) as batch_op:
        batch_op.add_column(sa.Column("domain_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("favourite_since", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("label", sa.String(length=200), nullable=True))
    op.execute(
        "UPDATE generation_images SET domain_id = "
        "(SELECT generations.domain_id FROM generations WHERE generations.id = generation_images.generation_id)"
    )
    with op.batch_alter_table("generation_images", schema=None) as batch_op:
        batch_op.alter_column("domain_id", existing_type=sa.String(length=40), nullable=False)
    op.drop_index("ix_generations_adapter_id", "generations")
    for name, table, columns, condition in INDEXES:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)


def downgrade() -> None:
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    op.create_index("ix_generations_adapter_id", "generations", ["adapter_id"])
    with op.batch_alter_table("generation_images", schema=None) as batch_op:
        batch_op.drop_column("label")
        batch_op.drop_column("favourite_since")
        batch_op.drop_column("domain_id")
