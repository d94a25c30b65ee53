"""`python -m cloister.launcher`."""

import sys

from cloister.launcher.main import main

sys.exit(main())
