"""Where everything lies in an appliance's home. Paths only: nothing here opens or decides anything."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cloister.errors import InvalidInput

SERVICE_HOME = Path("/var/lib/cloister")

SOCKET_PATH_BYTES = 107
"""What Linux allows for the address of a Unix socket."""


@dataclass(frozen=True)
class Home:
    """The folders and sockets under one root, all of them private to their owner."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """`$CLOISTER_HOME`; else the service's, where one is installed; else `~/.local/share/cloister`.

        Errors: InvalidInput where that is of an account without a folder.
        """
        named = os.environ.get("CLOISTER_HOME")
        if not named and SERVICE_HOME.is_dir():
            return cls(SERVICE_HOME)
        if named:
            return cls(Path(named).absolute())
        try:
            own = Path.home()
        except RuntimeError:
            raise InvalidInput(
                "this account has no folder of its own",
                where="$HOME",
                remedy="Say in $CLOISTER_HOME where the appliance's home is to be.",
            ) from None
        return cls((own / ".local" / "share" / "cloister").absolute())

    @property
    def is_service(self) -> bool:
        """Whether this is the home of the service that `deploy/install.sh` sets up."""
        return self.root == SERVICE_HOME

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def authority_socket(self) -> Path:
        return self.run / "authority.sock"

    @property
    def side_socket(self) -> Path:
        return self.run / "side.sock"

    @property
    def launcher_socket(self) -> Path:
        return self.run / "launcher" / "launcher.sock"

    @property
    def gateway_file(self) -> Path:
        return self.run / "gateway" / "gateway.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def control_ledger(self) -> Path:
        return self.root / "ledger" / "control"

    @property
    def gateway_ledger(self) -> Path:
        return self.root / "ledger" / "gateway"

    def ledger(self, name: str) -> Path:
        """The folder of the control or the gateway ledger."""
        return self.root / "ledger" / name

    @property
    def left_file(self) -> Path:
        return self.root / "ledger" / "left.json"

    @property
    def ledger_index(self) -> Path:
        """Where the indices of the ledgers lie. They can be deleted: they are built again."""
        return self.root / "ledger" / "index"

    @property
    def bodies(self) -> Path:
        """Prompts and answers, sealed, where policy keeps them."""
        return self.root / "bodies"

    @property
    def export_cursors(self) -> Path:
        """How far each sink of the ledgers has got."""
        return self.root / "state" / "export"

    @property
    def state(self) -> Path:
        return self.root / "state" / "state.db"

    @property
    def identity_file(self) -> Path:
        return self.root / "appliance.json"

    @property
    def settings_file(self) -> Path:
        return self.root / "appliance.yaml"

    @property
    def allowed_signers(self) -> Path:
        """Whose SSH signatures on approvals count, where the settings name no other file."""
        return self.root / "allowed_signers"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def engine_folder(self, deployment_id: str) -> Path:
        return self.run / "engines" / deployment_id

    def output_folder(self, job_id: str) -> Path:
        return self.work / job_id / "out"

    def require_short(self) -> None:
        """Errors: InvalidInput where the path is too long for sockets below it."""
        longest = len(os.fsencode(self.engine_folder("dp-000000000000") / "engine.sock"))
        if longest > SOCKET_PATH_BYTES:
            raise InvalidInput(
                f"this path is {longest - SOCKET_PATH_BYTES} bytes too long for the sockets below it",
                where=str(self.root),
                remedy="Choose a shorter CLOISTER_HOME.",
            )

    def make(self) -> None:
        """Make what folders are missing, 0700; a root that was made open to others is closed to them.

        Errors: InvalidInput where the path is too long for sockets below it; OSError, naming the folder
        that cannot be made.
        """
        self.require_short()
        for folder in (
            self.root,
            self.run,
            self.run / "engines",
            self.launcher_socket.parent,
            self.gateway_file.parent,
            self.keys,
            self.objects,
            self.work,
            self.control_ledger.parent,
            self.state.parent,
            self.logs,
        ):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_mode & 0o066:
            self.root.chmod(0o700)

    def set_door(self, *, open_to_others: bool) -> None:
        """Let other accounts through to the sockets, or not; nothing else can be listed or read."""
        for folder in (self.root, self.run):
            folder.chmod(0o711 if open_to_others else 0o700)
