"""Training tokens a second: ours, from a sealed dataset, against TRL's SFTTrainer with peft and bitsandbytes.

The same NF4 base, rows, batch size, adapter, schedule and number of threads; the two take turns, each in a process of
its own, so that a busy machine hits both. TRL gets its better settings: no gradient checkpointing, batches
grouped by length, nothing logged or saved. Rows are Banking77's where that lies beside the project
(`CLOISTER_SHARED`), else the demo's. Afterwards both are judged alike: the share of 1,000 unseen rows whose every
answer token is the likeliest. Memory is the most that a process held. What sealing costs is measured apart, since
rows are read once a run: the same rows read sealed and plain in turn, the difference as a share of our whole run. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
DEMO_BASE = HERE.parents[2] / "src" / "cloister" / "demo" / "base"
BANKING = Path(os.environ.get("CLOISTER_SHARED", HERE.parents[3] / "shared")) / "data" / "banking77"
RANK, ALPHA, MAX_LENGTH, RATE, WARM_UP = 16, 32, 512, 1e-3, 0.05
UNSEEN = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_003)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--packing", choices=("auto", "on", "off"), default="auto", help="ours only")
    parser.add_argument("--data", choices=("banking77", "claims"), default=_default_data())
    parser.add_argument("--side", choices=("ours", "trl"))
    options = parser.parse_args()
    if options.side:
        if options.side == "ours":
            print(json.dumps(ours(options.data, options.rows, options.batch, options.packing)))
        else:
            print(json.dumps(trl(options.data, options.rows, options.batch)))
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
    memory = round(best["ours"]["peak_mib"] / best["trl"]["peak_mib"], 2)
    right = {side: statistics.mean(r["right"] for r in results) for side, results in rounds.items()}
    print(f"ratio {_line(ratios)}  (aim: at least 2.5); memory {memory} (aim: at most 1)")
    sealing = best["ours"]["sealing_s"] / best["ours"]["run_s"]
    print(f"sealed against plain: {sealing:.2%} of the run (aim: at most 1%)")
    print(f"unseen rows answered right: ours {right['ours']:.3f}, trl {right['trl']:.3f}")
    print(
        json.dumps(
            {
                "bench": "training",
                "ratio": ratios["tokens_per_s"],
                "ratio_cpu": ratios["tokens_per_cpu_s"],
                "ratio_memory": memory,
                "sealing_share": round(sealing, 5),
                "aim": 2.5,
                "data": options.data,
                "ours": best["ours"],
                "trl": best["trl"],
                "threads": options.threads,
                "rows": options.rows,
                "batch": options.batch,
            }
        )
    )


def ours(data: str, rows: int, batch: int, packing: Any) -> dict[str, float]:
    """The worker's own verb on sealed objects."""
    sys.path.insert(0, str(HERE.parents[1]))
    import torch

    import worker_jobs
    from cloister.api import LoraConfig, TrainConfig
    from cloister.models.adapter import load_adapter
    from cloister.models.load import load_base
    from cloister.vault import ObjectReader
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
        source.write_text("".join(json.dumps(row) + "\n" for row in _rows(data, rows)))
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
            warmup_ratio=WARM_UP,
            packing=packing,
        )
        inputs = {"dataset": dataset, "base": base}
        began = time.perf_counter()
        values = train.run(worker_jobs.job("train", config, out, inputs=inputs), Clock())
        took = time.perf_counter() - began
        peak = _peak()
        plain = worker_jobs.import_dataset(root, source, holdout=0.0, sealed=False)
        sealing = statistics.median(_reading(dataset) - _reading(plain) for _ in range(5))
        with (
            ObjectReader(Path(base.path), key=worker_jobs.raw_key(base)) as weights,
            ObjectReader(Path(out.path), key=worker_jobs.raw_key(out)) as adapter,
        ):
            model, tokenizer = load_base(weights, method="qlora", device="cpu")
            right = judged(load_adapter(model, adapter, "last"), tokenizer, data)
    tokens = values["tokens"] / values["steps"], values["supervised_tokens"] / values["steps"]
    figures = _figures([mark[1:] for mark in marks], *tokens, values["train_loss"])
    return {
        **figures,
        "peak_mib": peak,
        "right": right,
        "run_s": round(took, 2),
        "sealing_s": round(sealing, 4),
    }


def _reading(dataset: Any) -> float:
    """Seconds to open a dataset and read each of its rows once, sealed or plain."""
    import worker_jobs
    from cloister.datasets.reader import DatasetReader

    began = time.perf_counter()
    with DatasetReader(Path(dataset.path), key=worker_jobs.raw_key(dataset)) as reader:
        for number in range(len(reader)):
            reader[number]
    return time.perf_counter() - began


def trl(data: str, rows: int, batch: int) -> dict[str, float]:
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
            train_dataset=Dataset.from_list(list(_rows(data, rows))),
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
                warmup_steps=math.ceil(WARM_UP * rows / batch),
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
        peak = _peak()
    steps = len(marks)
    right = judged(trainer.model, tokenizer, data)
    figures = _figures(marks, counts["tokens"] / steps, counts["supervised"] / steps, outcome.training_loss)
    return {**figures, "peak_mib": peak, "right": right}


def judged(model: Any, tokenizer: Any, data: str) -> float:
    """The share of unseen rows whose every answer token is the likeliest: what greedy decoding answers right."""
    import torch

    from cloister.datasets.rows import Message, Row
    from cloister.training.rows import RowSource, tokenise

    def row(document: dict[str, Any]) -> Row:
        return Row(tuple(Message(one["role"], one["content"]) for one in document["messages"]))

    rows = [row(document) for document in _rows(data, UNSEEN, unseen=True)]
    ids = tokenise(RowSource(rows, range(len(rows))), tokenizer, MAX_LENGTH)
    model.train()  # in evaluation mode some CPUs have bitsandbytes repack the weight; there is no dropout
    right = 0
    with torch.no_grad():
        for part in ids.by_length(32):
            batch = ids.batch(part, torch.device("cpu"))
            likeliest = model(input_ids=batch.input_ids).logits[:, :-1].argmax(-1)
            wrong = (likeliest != batch.input_ids[:, 1:]) & batch.supervised[:, 1:]
            right += int((~wrong.any(-1)).sum())
    return right / len(rows)


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _figures(
    marks: list[tuple[float, float]], tokens: float, supervised: float, loss: float
) -> dict[str, float]:
    """From the end of the third step on: kernels are prepared by then. All the rest counts, since batches differ."""
    timed = marks[3:]
    wall, cpu = ((last - first) / (len(timed) - 1) for first, last in zip(timed[0], timed[-1], strict=True))
    median = statistics.median(after[0] - before[0] for before, after in itertools.pairwise(timed))
    return {
        "tokens_per_s": round(tokens / wall, 1),
        "supervised_tokens_per_s": round(supervised / wall, 1),
        "tokens_per_cpu_s": round(tokens / cpu, 1),
        "ms_per_step": round(wall * 1000, 1),
        "median_ms_per_step": round(median * 1000, 1),
        "tokens_per_step": round(tokens, 1),
        "train_loss": round(loss, 4),
    }


def _default_data() -> str:
    return "banking77" if BANKING.is_dir() else "claims"


def _rows(data: str, count: int, *, unseen: bool = False) -> Any:
    """Chat rows, the same ones each time; `unseen` ones are none of the others."""
    if data == "claims":
        from cloister.demo.claims import generate

        return generate(count, seed=8 if unseen else 7)
    with (BANKING / ("test.csv" if unseen else "train.csv")).open(newline="") as file:
        read = list(csv.DictReader(file))
    random.Random(7).shuffle(read)
    return [
        {
            "messages": [
                {"role": "user", "content": r["text"]},
                {"role": "assistant", "content": r["category"]},
            ]
        }
        for r in read[:count]
    ]


def _one(side: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--side", side, "--rows", str(options.rows)]
    command += ["--packing", options.packing, "--data", options.data]
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
