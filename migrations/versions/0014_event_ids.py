"""Numbers the events of each fine-tune separately. One counter for all tenants showed each tenant how busy the others
were.

Existing events keep their ids, so that `Last-Event-ID` and signed URLs of samples stay valid.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

EVENTS = "finetune_events"
COUNT = """
    UPDATE finetunes SET last_event_id =
        COALESCE((SELECT max(id) FROM finetune_events WHERE finetune_id = finetunes.id), 0)
"""
NUMBER = """
    UPDATE finetune_events SET id = numbered.number FROM (
        SELECT finetune_id, id, -row_number() OVER (ORDER BY finetune_id, id) AS number FROM finetune_events
    ) AS numbered WHERE numbered.finetune_id = finetune_events.finetune_id AND numbered.id = finetune_events.id
"""
"""SQL that numbers all events. The new ids are negative at first, so that no new id equals an old one."""
SEQUENCE = (
    "CREATE SEQUENCE finetune_events_id_seq OWNED BY finetune_events.id",
    "ALTER TABLE finetune_events ALTER id SET DEFAULT nextval('finetune_events_id_seq')",
    "SELECT setval('finetune_events_id_seq', (SELECT COALESCE(max(id), 0) + 1 FROM finetune_events), false)",
)


def upgrade() -> None:
    op.add_column("finetunes", sa.Column("last_event_id", sa.BigInteger(), server_default="0", nullable=False))
    op.execute(COUNT)
    op.drop_index("ix_finetune_events_finetune_id_id", EVENTS)
    _key_by("finetune_id", "id")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE finetune_events ALTER id DROP DEFAULT")
        op.execute("DROP SEQUENCE finetune_events_id_seq")


def downgrade() -> None:
    """Numbers all events with one counter again. Events get new ids, since events of two fine-tunes may have the same
    id."""
    op.execute(NUMBER)
    op.execute("UPDATE finetune_events SET id = -id")
    _key_by("id")
    if op.get_bind().dialect.name == "postgresql":
        for statement in SEQUENCE:
            op.execute(statement)
    op.create_index("ix_finetune_events_finetune_id_id", EVENTS, ["finetune_id", "id"])
    with op.batch_alter_table("finetunes", schema=None) as batch_op:
        batch_op.drop_column("last_event_id")


def _key_by(*columns: str) -> None:
    with op.batch_alter_table(EVENTS, schema=None) as batch_op:
        batch_op.drop_constraint("pk_finetune_events", type_="primary")
        batch_op.create_primary_key("pk_finetune_events", list(columns))
