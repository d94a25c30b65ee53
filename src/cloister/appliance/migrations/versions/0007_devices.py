"""Jobs and deployments know their device."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("jobs", "deployments"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(sa.Column("device", sa.String(length=16), nullable=True))


def downgrade() -> None:
    for table in ("jobs", "deployments"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("device")
