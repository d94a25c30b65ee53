"""`cloister.worker.ranks` with the base in float32, where sums in another order differ by 1e-7."""

import sys

import torch

from cloister.models import load
from cloister.worker import ranks

load.load_base.__kwdefaults__["dtype"] = torch.float32
sys.exit(ranks.main())
