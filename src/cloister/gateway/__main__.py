"""`python -m cloister.gateway`: the same as the `cloister-gateway` command."""

from __future__ import annotations

import sys

from cloister.gateway.main import main

sys.exit(main())
