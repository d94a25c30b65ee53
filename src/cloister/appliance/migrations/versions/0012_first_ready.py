"""Deployments know when their engine first answered: one that never has is given up sooner."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ready_at", sa.DateTime(), nullable=True))
    # Of those from before this it is not known: they are taken to have answered, but for what just starts.
    op.execute("UPDATE deployments SET ready_at = created_at WHERE state <> 'starting'")


def downgrade() -> None:
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.drop_column("ready_at")
