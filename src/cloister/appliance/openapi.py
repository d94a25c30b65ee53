"""`python -m cloister.appliance.openapi`: the socket's OpenAPI document, as `deploy/openapi.json` keeps it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from cloister.appliance.authority import Authority
from cloister.appliance.http import create_app
from cloister.home import Home
from cloister.policy import Settings


def document() -> str:
    """The document of the routes as the code has them, JSON with sorted keys."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.make()
        app = create_app(Authority(home, Settings()))
        return json.dumps(app.openapi(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
