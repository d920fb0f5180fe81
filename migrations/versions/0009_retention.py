"""Adds what retention needs: tables of objects to delete and of stored bytes, columns for what was removed by age, and
indexes to find old rows."""

import sqlalchemy as sa
from alembic import op

from core.service.db.base import Now
from migrations.policies import protect

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
KEYSETS = {
    "generations": "domain_id", "finetune_events": "finetune_id", "webhook_deliveries": "webhook_id",
    "audit_log": "tenant_id",
}
"""Owner column of each table that is listed in pages by id. An index of owner and id replaces the index of the owner
alone."""
INDEXES = (
    ("ix_generations_finished_at", "generations", ["finished_at"], None),
    ("ix_generations_pictured", "generations", ["domain_id", "id"], "expired_at IS NULL"),
    ("ix_generations_unexpired", "generations", ["finished_at"], "expired_at IS NULL"),
    *(
        (f"ix_{table}_leased", table, ["lease_expires_at"], "lease_expires_at IS NOT NULL")
        for table in ("datasets", "finetunes", "generations")
    ),
    ("ix_finetunes_unthinned", "finetunes", ["finished_at"], "events_thinned_at IS NULL"),
    ("ix_finetunes_sampled", "finetunes", ["finished_at"], "samples_removed_at IS NULL"),
    ("ix_finetunes_checkpointed", "finetunes", ["finished_at"], "checkpoint_key IS NOT NULL"),
    ("ix_generation_previews_created_at", "generation_previews", ["created_at"], None),
    ("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], None),
)
OBJECTS = """
    SELECT domain_id, size_bytes FROM datasets
    UNION ALL SELECT domain_id, size_bytes FROM adapters
    UNION ALL SELECT domain_id, generation_images.size_bytes FROM generation_images
        JOIN generations ON generations.id = generation_id
"""


def upgrade() -> None:
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expired_at", TIME, nullable=True))
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.add_column(sa.Column("checkpoint_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("events_thinned_at", TIME, nullable=True))
        batch_op.add_column(sa.Column("samples_removed_at", TIME, nullable=True))
    with op.batch_alter_table("generation_previews", schema=None) as batch_op:
        batch_op.add_column(sa.Column("size_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("created_at", TIME, server_default=Now(), nullable=False))
    op.create_table(
        "discarded_objects",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("object_key", sa.String(length=500), nullable=False),
        sa.Column("due_at", TIME, server_default=Now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_discarded_objects")),
    )
    op.create_index(op.f("ix_discarded_objects_due_at"), "discarded_objects", ["due_at"])
    op.create_table(
        "stored_bytes",
        sa.Column("domain_id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_stored_bytes_domain_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_stored_bytes_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("domain_id", name=op.f("pk_stored_bytes")),
    )
    op.create_index(op.f("ix_stored_bytes_tenant_id"), "stored_bytes", ["tenant_id"])
    for table, owner in KEYSETS.items():
        op.drop_index(f"ix_{table}_{owner}", table)
        op.create_index(f"ix_{table}_{owner}_id", table, [owner, "id"])
    for name, table, columns, condition in INDEXES:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
    _count_bytes()
    if op.get_bind().dialect.name == "postgresql":
        _protect()


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER append_only ON audit_log")
        op.execute("DROP TRIGGER keep_recent ON audit_log")
        op.execute("DROP FUNCTION refuse_recent()")
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for name, table, _, _ in reversed(INDEXES):
        op.drop_index(name, table)
    for table, owner in KEYSETS.items():
        op.drop_index(f"ix_{table}_{owner}_id", table)
        op.create_index(f"ix_{table}_{owner}", table, [owner])
    op.drop_table("stored_bytes")
    op.drop_table("discarded_objects")
    with op.batch_alter_table("generation_previews", schema=None) as batch_op:
        batch_op.drop_column("created_at")
        batch_op.drop_column("size_bytes")
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("samples_removed_at")
        batch_op.drop_column("events_thinned_at")
        batch_op.drop_column("checkpoint_bytes")
    with op.batch_alter_table("generations", schema=None) as batch_op:
        batch_op.drop_column("expired_at")


def _count_bytes() -> None:
    """Fills `stored_bytes` with the total size of each domain's objects. Previews, samples and checkpoints from before
    this version have no recorded size, and count as 0 bytes."""
    op.execute(
        f"INSERT INTO stored_bytes (domain_id, tenant_id, bytes) SELECT id, tenant_id, coalesce(size, 0) FROM domains "
        f"LEFT JOIN (SELECT domain_id, sum(size_bytes) AS size FROM ({OBJECTS}) AS objects GROUP BY domain_id) AS sums "
        f"ON sums.domain_id = domains.id"
    )


def _protect() -> None:
    for table in ("discarded_objects", "stored_bytes"):
        protect(table)
    # Retention deletes old entries of the audit log. The trigger prevents every role from deleting recent entries.
    op.execute("DROP TRIGGER append_only ON audit_log")
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        """
        CREATE FUNCTION refuse_recent() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF OLD.created_at > clock_timestamp() - interval '30 days' THEN
                RAISE EXCEPTION 'The audit log is append-only for 30 days.' USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN OLD;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER keep_recent BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_recent()"
    )
