"""Alembic's entry: the connection comes from `state.migrate`, or from `alembic -x db=FILE` in development."""

from alembic import context
from sqlalchemy import create_engine

from cloister.appliance.state import Base

connection = context.config.attributes.get("connection")
if connection is None:
    database = context.get_x_argument(as_dictionary=True)["db"]
    connection = create_engine(f"sqlite:///{database}").connect()
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
