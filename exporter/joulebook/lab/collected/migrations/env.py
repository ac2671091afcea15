"""What Alembic runs: the connection of `schema.bring_up_to_date`, in its transaction."""

from __future__ import annotations

from alembic import context

from joulebook.lab.collected.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
