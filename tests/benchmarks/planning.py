"""How long a plan takes, and how much memory: GPTs of 12, 48 and 96 blocks, and Llama 3 405B, all on meta.

Every plan is made in a process of its own, so that its peak memory is its own and every first time counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.record import ROOT, Record, Rows

SIZES: dict[int, dict[str, int]] = {
    12: {"n_blocks": 12, "width": 768, "n_heads": 12, "context": 1024, "vocab": 50304},
    48: {"n_blocks": 48, "width": 1600, "n_heads": 25, "context": 1024, "vocab": 50304},
    96: {"n_blocks": 96, "width": 12288, "n_heads": 96, "context": 2048, "vocab": 50304},
}
"""GPT-2 small and GPT-2 XL (Radford et al. 2019, table 2), and GPT-3 (Brown et al. 2020, table 2.1)."""

N_STAGES = (4, 8, 16)
LLAMA = {
    "hidden_size": 16384,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "intermediate_size": 53248,
    "vocab_size": 128256,
}
"""Llama 3 405B (Grattafiori et al. 2024, table 3), as transformers builds it."""
LLAMA_STAGES = 64
LLAMA_LIMITS = {"capture": 25.0, "plan s": 45.0, "peak MiB": 1.5e9 / 2**20}
"""Seconds and memory that its plan may take."""
PHASES = {"pricing its nodes": "cost", "finding the best cuts": "partition"}
METHOD = """\
`models/gpt` with dropout in train mode, on meta, one microbatch of 4 sequences, `hardware="h100"`, 1F1B;
Llama 3 405B in bfloat16 by `transformers.LlamaConfig`, 4 sequences of 2048 tokens, where that is installed.
One new process a plan, one thread; its first-time costs (modules that torch loads late) are in it,
`import` is apart. Seconds are CPU seconds of that process, because the cores are shared; wall seconds are
beside them. "partition" is the solver with its proof, the two baselines, the transfers and the predicted
step. "MiB more" is the peak resident memory above that after the imports. As a yardstick, the second table
has `torch.export.export(strict=False)` of the same model in a process of its own: the graph alone, no
plan. The tables of `what_if` are timed in one process, after a plan; their rows are not proven, the plan of
a row is."""


def one(n_blocks: int, n_stages: int) -> dict[str, Any]:
    """Plan in this process; return CPU seconds of each phase, and peak memory."""
    started = time.process_time()
    import torch

    from autopipe.api import plan
    from autopipe.arguments import checked_choices
    from autopipe.planning import plan_for
    from autopipe.trace import capture

    assert plan, "the whole road is loaded, as a user's import loads it"
    make = gpt_of if n_blocks in SIZES else llama_of
    imported, memory_kib = time.process_time() - started, _peak_kib()
    with torch.device("meta"):
        model, tokens = make(n_blocks)
    unset: dict[str, Any] = dict.fromkeys(("n_ranks", "n_microbatches", "memory_limit", "pin"))
    rest = {"schedule": "1f1b", "cost": "roofline", "keep_together": (), "same_stage": (), "opaque": ()}
    choices = checked_choices(model, n_stages, hardware_choice="h100", **unset, **rest)
    watch = _Phases("capture")
    traced = capture(model, (tokens,), opaque=choices.is_opaque)
    made = plan_for(model, traced, choices, ((tokens,), {}), watch.say)
    watch.say("")
    return {
        "import": imported,
        **watch.took,
        "wall": watch.wall(),
        "more_mib": (_peak_kib() - memory_kib) / 1024,
        "peak_mib": _peak_kib() / 1024,
        "nodes": len(list(traced.compute_nodes())),
        "gap": made.partition.certificate.gap,
    }


def gpt_of(n_blocks: int) -> tuple[Any, Any]:
    """One of the GPTs, and its example."""
    import torch

    from models import gpt

    return gpt.build(**SIZES[n_blocks]), torch.empty(4, SIZES[n_blocks]["context"], dtype=torch.long)


def llama_of(n_blocks: int) -> tuple[Any, Any]:
    """Llama 3 405B, and its example."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**LLAMA, "num_hidden_layers": n_blocks})
    model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).train()
    return model, torch.empty(4, 2048, dtype=torch.long)


def exported(n_blocks: int, _n_stages: int) -> dict[str, Any]:
    """Export the same model in this process, its batch open."""
    import torch

    from models import gpt

    with torch.device("meta"):
        model = gpt.build(**SIZES[n_blocks])
    tokens = torch.empty(4, SIZES[n_blocks]["context"], dtype=torch.long, device="meta")
    started = time.process_time()
    batch = torch.export.Dim("batch", min=2)
    torch.export.export(model, (tokens,), dynamic_shapes=({0: batch},), strict=False)
    return {"export": time.process_time() - started}


def table(n_blocks: int, _n_stages: int) -> dict[str, Any]:
    """Ask for tables in this process, after a plan, so that both find torch warm; CPU seconds."""
    import torch

    import autopipe

    with torch.device("meta"):
        model, tokens = gpt_of(n_blocks)
    took = {}
    asked: dict[str, dict[str, Any]] = {
        "2 to 16 stages": {"hardware": "h100"},
        "x 2 links": {"hardware": ["h100", "h100+infiniband"]},
        "x 2 links x 2 counts": {"hardware": ["h100", "h100+infiniband"], "n_microbatches": [16, 64]},
    }
    for _ in range(2):
        started = time.process_time()
        autopipe.plan(model, 8, (tokens,), hardware="h100")
        took["one plan"] = time.process_time() - started
    for name, choices in asked.items():
        started = time.process_time()
        autopipe.what_if(model, range(2, 17), (tokens,), **choices)
        took[name] = time.process_time() - started
    return took


class _Phases:
    """CPU seconds of the phases of a plan, told apart by what the plan says that it does."""

    def __init__(self, first: str) -> None:
        self.took: dict[str, float] = {}
        self._phase, self._since, self._began = first, time.process_time(), time.perf_counter()

    def say(self, what: str) -> None:
        now = time.process_time()
        self.took[self._phase] = now - self._since
        self._phase, self._since = PHASES.get(what, ""), now

    def wall(self) -> float:
        return time.perf_counter() - self._began


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_new_process(job: Callable[[int, int], dict[str, Any]], n_blocks: int, n_stages: int) -> dict[str, Any]:
    """Run a job of this file in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.planning", job.__name__, str(n_blocks), str(n_stages)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def llama() -> tuple[Rows, str] | None:
    """Plan Llama 3 405B, if there is transformers: its row beside its limits, and what was found."""
    if importlib.util.find_spec("transformers") is None:
        print("Llama 3 405B is left out: transformers is not installed.")
        return None
    found = in_new_process(one, LLAMA["num_hidden_layers"], LLAMA_STAGES)
    plan_s = sum(found[phase] for phase in ("capture", "cost", "partition"))
    took = {"capture": found["capture"], "plan s": plan_s, "peak MiB": found["peak_mib"]}
    within = all(took[name] < limit for name, limit in LLAMA_LIMITS.items())
    rows = [
        ("Llama 3 405B", *(f"{value:.1f}" for value in took.values()), f"{found['wall']:.1f}"),
        ("limit", *(f"{limit:.1f}" for limit in LLAMA_LIMITS.values()), ""),
    ]
    finding = (
        f"Llama 3 405B, {found['nodes']} nodes in {LLAMA_STAGES} stages: {plan_s:.1f} CPU seconds, "
        f"{found['peak_mib']:.0f} MiB at the peak, gap {found['gap']:.2%}; "
        f"{'within' if within else 'NOT within'} its limits."
    )
    return Rows("Llama 3 405B", ("model", *took, "wall s"), rows), finding


def main() -> None:
    """Make all plans, print the tables and write the record."""
    record = Record("planning", "Time and memory of a plan", "python -m tests.benchmarks.planning", METHOD)
    plans = {(n, k): in_new_process(one, n, k) for n in SIZES for k in N_STAGES}
    exports = {n: in_new_process(exported, n, 1)["export"] for n in SIZES}
    phases = ("capture", "cost", "partition")
    total = {key: sum(found[phase] for phase in phases) for key, found in plans.items()}
    typical = {n: statistics.median(total[n, k] for k in N_STAGES) for n in SIZES}
    columns = (
        "blocks",
        "nodes",
        "stages",
        *phases,
        "plan s",
        "wall s",
        "import s",
        "MiB more",
        "peak MiB",
        "gap",
    )
    rows = [
        (
            *(str(n), str(found["nodes"]), str(k)),
            *(f"{found[phase]:.2f}" for phase in phases),
            *(f"{value:.2f}" for value in (total[n, k], found["wall"], found["import"])),
            *(f"{found['more_mib']:.0f}", f"{found['peak_mib']:.0f}", f"{found['gap']:.2%}"),
        )
        for (n, k), found in plans.items()
    ]
    first, last = min(SIZES), max(SIZES)
    share = statistics.median(plans[last, k]["capture"] / total[last, k] for k in N_STAGES)
    memory = max(plans[last, k]["more_mib"] for k in N_STAGES)
    slowest = max(total[last, k] for k in N_STAGES)
    against = [
        (str(n), f"{typical[n]:.2f}", f"{exports[n]:.2f}", f"{typical[n] / exports[n]:.2f}") for n in SIZES
    ]
    tables = {n: in_new_process(table, n, 1) for n in SIZES}
    what_if = [
        (str(n), f"{found['one plan']:.2f}", *(f"{found[name] / found['one plan']:.2f}" for name in found))
        for n, found in tables.items()
    ]
    large = llama()
    record.write(
        [
            Rows("Each plan", columns, rows),
            Rows("Against torch.export", ("blocks", "plan s", "export s", "ratio"), against),
            Rows("Tables of what_if, in plans into 8 stages", ("blocks", "s", *tables[first]), what_if),
            *([large[0]] if large else []),
        ],
        [
            f"{last} blocks: a plan takes {slowest:.1f} CPU seconds at most, and {memory:.0f} MiB; "
            f"{share:.0%} of the time is the capture.",
            f"{last // first} times the blocks take {typical[last] / typical[first]:.1f} times as long.",
            f"{last} blocks: a whole plan takes {typical[last] / exports[last]:.2f} times as long as the "
            "graph alone by torch.export.",
            *([large[1]] if large else []),
        ],
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        jobs = {job.__name__: job for job in (one, exported, table)}
        print(json.dumps(jobs[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
