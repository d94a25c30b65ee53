"""Classifications of datasets, approvals, and policy sets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "classifications",
        sa.Column("object_id", sa.String(length=15), nullable=False),
        sa.Column("classification", sa.String(length=16), nullable=False),
        sa.Column("set_at", sa.DateTime(), nullable=False),
        sa.Column("set_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("object_id"),
    )
    op.create_table(
        "approvals",
        sa.Column("approval_id", sa.String(length=15), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("thing", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("classification", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("signature_needed", sa.Boolean(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("requester", sa.Integer(), nullable=False),
        sa.Column("requested_at", sa.DateTime(), nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decider", sa.Integer(), nullable=True),
        sa.Column("decided_at", sa.DateTime(), nullable=True),
        sa.Column("stands_until", sa.DateTime(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("signature", sa.String(), nullable=True),
        sa.Column("signer", sa.String(), nullable=True),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("approval_id"),
    )
    op.create_table(
        "policy_sets",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("origin", sa.String(length=16), nullable=False),
        sa.Column("in_force", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("approval_id", sa.String(length=15), nullable=True),
        sa.PrimaryKeyConstraint("digest"),
    )
    with op.batch_alter_table("shreds", schema=None) as batch_op:
        batch_op.add_column(sa.Column("approval_id", sa.String(length=15), nullable=True))
        batch_op.add_column(sa.Column("approved", sa.String(length=64), nullable=True))
    op.create_index("ix_policy_sets_in_force", "policy_sets", ["in_force"])
    op.create_index("ix_approvals_state", "approvals", ["state"])
    op.create_index("ix_approvals_digest", "approvals", ["digest"])


def downgrade() -> None:
    with op.batch_alter_table("shreds", schema=None) as batch_op:
        batch_op.drop_column("approved")
        batch_op.drop_column("approval_id")
    op.drop_table("policy_sets")
    op.drop_table("approvals")
    op.drop_table("classifications")
