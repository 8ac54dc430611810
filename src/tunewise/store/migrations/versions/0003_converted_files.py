"""what was made of files that are tables."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go on to this revision."""
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("details", sa.String(), nullable=True))


def downgrade() -> None:
    """Go back to the tables before."""
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_column("details")
