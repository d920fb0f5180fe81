"""Multipart uploads of data sets; receipts of deletions."""

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Json, Now, UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TENANT = "(SELECT current_setting('difffit.tenant', true))"
EVERY = "(SELECT current_setting('difffit.tenant', true) = '*')"
OF_PREFIX = f"starts_with(prefix, 'tenants/' || {TENANT} || '/')"


def upgrade() -> None:
    op.create_table(
        "dataset_uploads",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("domain_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("object_key", sa.String(length=500), nullable=False),
        sa.Column("store_upload", sa.Text(), nullable=False),
        sa.Column("error_code", sa.String(length=60), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=Now(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain_id"], ["domains.id"], name=op.f("fk_dataset_uploads_domain_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_dataset_uploads_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_uploads")),
    )
    op.create_index(op.f("ix_dataset_uploads_domain_id"), "dataset_uploads", ["domain_id"])
    op.create_index(op.f("ix_dataset_uploads_tenant_id"), "dataset_uploads", ["tenant_id"])
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("evicted_at", UtcDateTime(), nullable=True))
    with op.batch_alter_table("deletions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tenant_id", sa.String(length=40), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("kind", sa.String(length=20), nullable=False, server_default="domain"))
        batch_op.add_column(sa.Column("target", sa.String(length=40), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("actor_key_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("rows", Json, nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("adapters", Json, nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("objects", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("claimed_until", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("emptied_at", UtcDateTime(), nullable=True))
        batch_op.create_index(op.f("ix_deletions_tenant_id"), ["tenant_id"], unique=False)
        batch_op.create_index(op.f("ix_deletions_done_at"), ["done_at"], unique=False)
    _tell_older_ones()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE dataset_uploads ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON dataset_uploads USING ({EVERY} OR tenant_id = {TENANT})")
        op.execute(f"ALTER POLICY tenant ON deletions USING ({EVERY} OR (tenant_id = {TENANT} AND {OF_PREFIX}))")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER POLICY tenant ON deletions USING ({EVERY} OR {OF_PREFIX})")
    with op.batch_alter_table("deletions", schema=None) as batch_op:
        batch_op.drop_index(op.f("ix_deletions_done_at"))
        batch_op.drop_index(op.f("ix_deletions_tenant_id"))
        for name in ("tenant_id", "kind", "target", "actor_key_id", "rows", "adapters", "objects", "bytes",
                     "claimed_until", "emptied_at"):
            batch_op.drop_column(name)
    with op.batch_alter_table("workers", schema=None) as batch_op:
        batch_op.drop_column("evicted_at")
    op.drop_table("dataset_uploads")


def _tell_older_ones() -> None:
    """A receipt of before this version says whose it is by its prefix alone: tenants/TENANT/domains/DOMAIN/."""
    deletions = sa.table("deletions", sa.column("id"), sa.column("prefix"), sa.column("tenant_id"), sa.column("kind"),
                         sa.column("target"))
    connection = op.get_bind()
    for id, prefix in connection.execute(sa.select(deletions.c.id, deletions.c.prefix)).all():
        parts = prefix.strip("/").split("/")
        known = {"tenant_id": parts[1], "kind": parts[-2][:-1], "target": parts[-1]} if len(parts) in (2, 4) else {}
        if known:
            connection.execute(sa.update(deletions).where(deletions.c.id == id).values(**known))
