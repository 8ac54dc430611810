"""Alembic's entry point: runs the migrations over the connection that `store.migrate` hands it."""

from alembic import context

from tunewise.store.tables import Table

connection = context.config.attributes["connection"]
# SQLite cannot alter most columns: Alembic then copies the table ("batch").
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
