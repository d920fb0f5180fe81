"""Moves a data set's rejected files from its report to a column of their own, since every listing reads the report."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SPLIT = {
    "postgresql": """
        UPDATE datasets SET rejected = report -> 'rejected',
            report = (report - 'rejected') || jsonb_build_object('rejected_count', jsonb_array_length(report -> 'rejected'))
        WHERE jsonb_exists(report, 'rejected')
    """,
    "sqlite": """
        UPDATE datasets SET rejected = json_extract(report, '$.rejected'),
            report = json_set(
                json_remove(report, '$.rejected'), '$.rejected_count', json_array_length(report, '$.rejected')
            )
        WHERE json_type(report, '$.rejected') = 'array'
    """,
}
JOIN = {
    "postgresql": """
        UPDATE datasets SET report = (report - 'rejected_count') || jsonb_build_object('rejected', rejected)
        WHERE jsonb_exists(report, 'rejected_count')
    """,
    "sqlite": """
        UPDATE datasets SET report = json_set(json_remove(report, '$.rejected_count'), '$.rejected', json(rejected))
        WHERE json_type(report, '$.rejected_count') = 'integer'
    """,
}


def upgrade() -> None:
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rejected", JSON, server_default="[]", nullable=False))
    op.execute(SPLIT[op.get_bind().dialect.name])


def downgrade() -> None:
    op.execute(JOIN[op.get_bind().dialect.name])
    with op.batch_alter_table("datasets", schema=None) as batch_op:
        batch_op.drop_column("rejected")
