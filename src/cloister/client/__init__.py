"""The typed client of the authority's socket: what the CLI, the console and programs use.

It knows the words (`cloister.api`) and the socket, and nothing of the rooms behind them. It holds no
state and no secret. Files are opened by its callers, with their own rights, and passed as descriptors.
"""

from cloister.client.client import Client
from cloister.client.connection import error_of

__all__ = ["Client", "error_of"]
