"""Shreds, tombstones, legal holds and backups; jobs that make another version of an object."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("output_version", sa.Integer(), nullable=False, server_default="1"))
    op.create_table(
        "shreds",
        sa.Column("shred_id", sa.String(length=15), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("object_id", sa.String(length=15), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("take_down", sa.Boolean(), nullable=False),
        sa.Column("asked_at", sa.DateTime(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("done_at", sa.DateTime(), nullable=True),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("jobs", sa.JSON(), nullable=False),
        sa.Column("keys", sa.Integer(), nullable=False),
        sa.Column("sealed_bytes", sa.Integer(), nullable=False),
        sa.Column("final_after", sa.DateTime(), nullable=True),
        sa.Column("ledger_index", sa.Integer(), nullable=True),
        sa.Column("problem", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("shred_id"),
    )
    op.create_index("ix_shreds_state", "shreds", ["state"])
    op.create_table(
        "tombstones",
        sa.Column("object_id", sa.String(length=15), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("shredded_at", sa.DateTime(), nullable=False),
        sa.Column("shredded_by", sa.String(), nullable=False),
        sa.Column("shred_id", sa.String(length=15), nullable=False),
        sa.Column("ledger_index", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("object_id", "version"),
    )
    op.create_index("ix_tombstones_name", "tombstones", ["name"])
    op.create_table(
        "holds",
        sa.Column("hold_id", sa.String(length=15), nullable=False),
        sa.Column("object_id", sa.String(length=15), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("placed_at", sa.DateTime(), nullable=False),
        sa.Column("placed_by", sa.String(), nullable=False),
        sa.Column("released_at", sa.DateTime(), nullable=True),
        sa.Column("released_by", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("hold_id"),
    )
    op.create_index("ix_holds_object_id", "holds", ["object_id"])
    op.create_table(
        "backups",
        sa.Column("backup_id", sa.String(length=15), nullable=False),
        sa.Column("made_at", sa.DateTime(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("where", sa.String(), nullable=False),
        sa.Column("keys_until", sa.DateTime(), nullable=False),
        sa.Column("discarded_at", sa.DateTime(), nullable=True),
        sa.Column("packs", sa.Integer(), nullable=False),
        sa.Column("copied", sa.Integer(), nullable=False),
        sa.Column("copied_bytes", sa.Integer(), nullable=False),
        sa.Column("objects_sha256", sa.String(length=64), nullable=False),
        sa.Column("keys_sha256", sa.String(length=64), nullable=False),
        sa.Column("ledger_entries", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("backup_id"),
    )


def downgrade() -> None:
    for table in ("backups", "holds", "tombstones", "shreds"):
        op.drop_table(table)
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("output_version")
