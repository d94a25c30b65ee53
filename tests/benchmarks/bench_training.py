"""Training tokens a second: ours, from a sealed dataset, against TRL's SFTTrainer with peft and bitsandbytes.

The same NF4 base, rows, batch size, adapter and number of threads; the two take turns, each in a process of
its own, so that a busy machine hits both. TRL gets its better settings: no gradient checkpointing, batches
grouped by length, nothing logged or saved. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
DEMO_BASE = HERE.parents[2] / "src" / "cloister" / "demo" / "base"
RANK, ALPHA, MAX_LENGTH, RATE = 16, 32, 512, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--packing", choices=("auto", "on", "off"), default="auto", help="ours only")
    parser.add_argument("--side", choices=("ours", "trl"))
    options = parser.parse_args()
    if options.side:
        if options.side == "ours":
            print(json.dumps(ours(options.rows, options.batch, options.packing)))
        else:
            print(json.dumps(trl(options.rows, options.batch)))
        return
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    for _ in range(options.rounds):
        for side, results in rounds.items():
            results.append(_one(side, options))
            print(f"{side:5} {_line(results[-1])}", flush=True)
    best = {side: max(results, key=lambda r: r["tokens_per_s"]) for side, results in rounds.items()}
    ratios = {
        name: round(best["ours"][name] / best["trl"][name], 2)
        for name in ("tokens_per_s", "supervised_tokens_per_s", "tokens_per_cpu_s")
    }
    print(f"ratio {_line(ratios)}  (aim: at least 2)")
    print(
        json.dumps(
            {
                "bench": "training",
                "ratio": ratios["tokens_per_s"],
                "ratio_cpu": ratios["tokens_per_cpu_s"],
                "aim": 2.0,
                "ours": best["ours"],
                "trl": best["trl"],
                "threads": options.threads,
                "rows": options.rows,
                "batch": options.batch,
            }
        )
    )


def ours(rows: int, batch: int, packing: Any) -> dict[str, float]:
    """The worker's own verb on sealed objects."""
    sys.path.insert(0, str(HERE.parents[1]))
    import torch

    import worker_jobs
    from cloister.api import LoraConfig, TrainConfig
    from cloister.worker.verbs import train

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    marks: list[tuple[int, float, float]] = []

    class Clock(worker_jobs.Recorder):
        def progress(self, stage: str, done: int, total: int) -> None:
            if stage == "train":
                marks.append((done, time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = root / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in _rows(rows)))
        dataset = worker_jobs.import_dataset(root, source, holdout=0.0)
        base = worker_jobs.import_base(root, DEMO_BASE)
        out = worker_jobs.output(root, "adapter", "ad")
        config = TrainConfig(
            lora=LoraConfig(rank=RANK, alpha=ALPHA),
            epochs=1,
            learning_rate=RATE,
            batch_size=batch,
            micro_batch_size=batch,
            max_length=MAX_LENGTH,
            packing=packing,
        )
        inputs = {"dataset": dataset, "base": base}
        values = train.run(worker_jobs.job("train", config, out, inputs=inputs), Clock())
    tokens = values["tokens"] / values["steps"], values["supervised_tokens"] / values["steps"]
    return _figures([mark[1:] for mark in marks], *tokens, values["train_loss"])


def trl(rows: int, batch: int) -> dict[str, float]:
    """SFTTrainer as its documentation has it for QLoRA, on the CPU."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_DISABLE_TELEMETRY="1")
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = AutoTokenizer.from_pretrained(DEMO_BASE)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        DEMO_BASE, quantization_config=quantised, dtype=torch.bfloat16, device_map="cpu"
    )
    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            marks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(list(_rows(rows))),
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Clock()],
            args=SFTConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=True,
                per_device_train_batch_size=batch,
                num_train_epochs=1,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                warmup_steps=2,
                max_length=MAX_LENGTH,
                assistant_only_loss=True,
                gradient_checkpointing=False,
                train_sampling_strategy="group_by_length",
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
        )
        counts = {"tokens": 0, "supervised": 0}
        collate = trainer.data_collator

        def counted(features: Any) -> Any:
            made = collate(features)
            counts["tokens"] += int(made["attention_mask"].sum())
            counts["supervised"] += int((made["labels"] != -100).sum())
            return made

        trainer.data_collator = counted
        outcome = trainer.train()
    steps = len(marks)
    return _figures(marks, counts["tokens"] / steps, counts["supervised"] / steps, outcome.training_loss)


def _figures(
    marks: list[tuple[float, float]], tokens: float, supervised: float, loss: float
) -> dict[str, float]:
    """From the end of the third step on: kernels are prepared by then. The median step speaks for all."""
    walls = [after[0] - before[0] for before, after in itertools.pairwise(marks[3:])]
    cpu = (marks[-1][1] - marks[3][1]) / (len(marks) - 4)
    step = statistics.median(walls)
    return {
        "tokens_per_s": round(tokens / step, 1),
        "supervised_tokens_per_s": round(supervised / step, 1),
        "tokens_per_cpu_s": round(tokens / cpu, 1),
        "ms_per_step": round(step * 1000, 1),
        "tokens_per_step": round(tokens, 1),
        "train_loss": round(loss, 4),
    }


def _rows(count: int) -> Any:
    from cloister.demo.claims import generate

    return generate(count, seed=7)


def _one(side: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--side", side, "--rows", str(options.rows)]
    command += ["--packing", options.packing]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [*command, "--batch", str(options.batch)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def _line(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value}" for name, value in figures.items())


if __name__ == "__main__":
    main()
