"""`python -m cloister.demo.pretrain --out DIR --minutes N [--seed S]`: makes the demo's base model anew.

Writes tokenizer, configuration and bf16 weights into DIR, first untrained and then every few minutes,
so DIR can be used while it trains. The model that ships was made with the defaults on two cores. A run
of the same seed sees the same text in the same order; how far it gets in N minutes is the machine's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from cloister.demo.pretrain.train import PretrainConfig, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cloister.demo.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--resume", type=Path, help="folder of a model to go on from")
    for field in fields(PretrainConfig):
        option, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        if kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(option, type=kind, default=field.default)
    given = vars(parser.parse_args())
    out, resume = given.pop("out"), given.pop("resume")
    print(json.dumps(pretrain(out, PretrainConfig(**given), resume=resume)))


if __name__ == "__main__":
    main()
