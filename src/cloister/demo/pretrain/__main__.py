"""`python -m cloister.demo.pretrain --out DIR --minutes N [--seed S] [--resume DIR]`: the demo's base model anew.

Writes tokenizer, configuration and bf16 weights into DIR, first untrained and then every few minutes,
so DIR can be used while it trains. A run of the same seed sees the same text in the same order; how far
it gets in N minutes is the machine's. The model that ships saw 37 million tokens on one core: 2 with seed 0,
19 with `--resume … --seed 1 --minutes 42`, 5.6 with `--resume … --seed 2 --minutes 26 --decay-share 0.5`, 10.7
with `--resume … --seed 3 --minutes 28 --warmup-steps 40 --decay-share 0.5` (the text has grown since the
first two legs). The embeddings of 707 tokens that this text never showed were then learnt alone, from 4.8 million
tokens with `--resume … --only-unlearnt --seed 4 --minutes 12 --warmup-steps 40 --decay-share 0.5`. Keeping freed
memory makes it faster on a CPU:
`MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 OMP_NUM_THREADS=1`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from cloister.demo.pretrain.train import PretrainConfig, pretrain


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cloister.demo.pretrain",
        description="Makes the demo's base model: see the module's docstring.",
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
