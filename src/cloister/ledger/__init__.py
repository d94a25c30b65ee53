"""The ledger: a transparency log in C2SP tlog-tiles layout whose entries are durable before the act.

A plain library: it knows nothing of users, policy or sockets. Its verifier is `cloister.verifier`,
which shares no code with it.
"""

from cloister.ledger.entry import Entry
from cloister.ledger.log import Ledger
from cloister.ledger.note import TreeHead
from cloister.ledger.state import Settings

__all__ = ["Entry", "Ledger", "Settings", "TreeHead"]
