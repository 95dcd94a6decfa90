"""The solver on public graphs: bottleneck, bound, gap and time beside what others do.

::

    python tests/benchmarks/solver_graphs.py --graphs ../shared/data/partition-graphs
    python tests/benchmarks/solver_graphs.py --graphs FOLDER --json rows.json --stages 4 8 --record
    python tests/benchmarks/solver_graphs.py --graphs ../shared/data/pipedream-profiles --replicas 4 16

A folder holds graphs of any of the three formats in ``graph_formats``. The number of stages is that of
the file, or 4, 8, 16 (4, 8 for PipeDream profiles). Without ``--graphs`` it is the three public folders,
the made-up shapes of ``graph_shapes`` and the models of models/. With ``--replicas`` PipeDream profiles are
laid out on that many devices too, as stages with replicas. ``--peers`` adds what other packages' functions
cut, see ``layer_peers``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy  # noqa: E402 - after the path is set
import scipy  # noqa: E402

from autopipe.errors import PartitionError  # noqa: E402
from autopipe.partition import (  # noqa: E402
    Objective,
    Replicas,
    Rules,
    by_parameters,
    compile_problem,
    solve,
    uniform_layers,
)
from tests.benchmarks.graph_formats import PublicProblem, read_folder  # noqa: E402
from tests.benchmarks.graph_shapes import shapes  # noqa: E402
from tests.benchmarks.layer_peers import NAMES, LayerPeers  # noqa: E402
from tests.benchmarks.model_graphs import model_graphs  # noqa: E402

SHARED = ROOT / ".." / "shared" / "data"
FOLDERS = ("partition-graphs", "pipedream-profiles", "fx-graphs")
PIPEDREAM_MS = {
    ("vgg16", 4): 411.04,
    ("vgg16", 8): 411.04,
    ("squeezenet1_0", 4): 95.55,
    ("squeezenet1_0", 8): 95.55,
    ("resnet50", 4): 258.15,
    ("resnet50", 8): 258.15,
    ("gnmt_large", 4): 137.13,
    ("gnmt_large", 8): 82.84,
    ("inception_v3", 4): 240.84,
    ("inception_v3", 8): 240.84,
}
"""PipeDream's own straight answers with communication (its paper's optimiser, 1e9 bytes/s)."""

PIPEDREAM_REPLICAS_MS = {
    ("vgg16", 4): 205.52,
    ("vgg16", 16): 56.53,
    ("squeezenet1_0", 4): 74.41,
    ("squeezenet1_0", 16): 18.88,
    ("resnet50", 4): 162.88,
    ("resnet50", 16): 47.80,
    ("gnmt_large", 4): 137.13,
    ("gnmt_large", 16): 58.97,
}
"""Its answers with replicas; for inception_v3 it has none. Its formula over all downsets of
squeezenet1_0 gives 18.893 on 16 devices, not 18.88."""


def run(
    problem: PublicProblem, k: int, budget: int, peers: LayerPeers, replicas: Replicas | None = None
) -> dict[str, Any]:
    """One graph, one number of stages, or of devices for stages with replicas."""
    start, cpu = time.perf_counter(), time.process_time()
    options = problem.options if replicas is None else {**problem.options, "replicas": replicas}
    partition = solve(problem.graph, k, hardware=problem.hardware, budget=budget, **options)
    seconds = time.perf_counter() - start
    certificate = partition.certificate
    row = {
        "graph": problem.name,
        "k": k,
        "bottleneck_ms": certificate.bottleneck_ms,
        "lower_bound_ms": certificate.lower_bound_ms,
        "seconds": seconds,
        "stage_of": dict(partition.stage_of),
        "nodes": len(problem.graph),
        "cpu_seconds": time.process_time() - cpu,
        "gap": certificate.gap,
        "stopped_by": certificate.stopped_by,
        **baselines(problem, k, peers),
    }
    if replicas is not None:
        row["replicas"] = [stage.n_replicas for stage in partition.stages]
        row["pipedream"] = PIPEDREAM_REPLICAS_MS.get((problem.name, k))
    return row


def baselines(problem: PublicProblem, k: int, peers: LayerPeers) -> dict[str, float | None]:
    """What cutting a list of layers costs on the same graph; None where there are too few layers."""
    objective = Objective(problem.graph, problem.hardware, k, Rules())
    items = compile_problem(objective, followers=problem.options.get("followers"), allow_empty=True)
    costs: dict[str, float | None] = {}
    for name, rule in (("uniform", uniform_layers), ("parameters", by_parameters)):
        try:
            costs[name] = rule(objective, items).certificate.bottleneck_ms
        except PartitionError:
            costs[name] = None
    costs |= peers.costs(objective, items)
    costs["pipedream"] = PIPEDREAM_MS.get((problem.name, k)) if problem.kind == "pipedream" else None
    return costs


HEADER = (
    "| graph | nodes | k | bottleneck ms | bound ms | gap | s (cpu) | uniform layers | by parameters "
    "| torchgpipe | DeepSpeed | PipeDream |"
)


def line(row: dict[str, Any]) -> str:
    """One row of the table."""

    def against(key: str) -> str:
        return "-" if row[key] is None else f"{row[key]:.4f} ({row[key] / row['bottleneck_ms']:.2f}x)"

    count = f"{row['k']} as {'+'.join(map(str, row['replicas']))}" if "replicas" in row else row["k"]
    return (
        f"| {row['graph']} | {row['nodes']} | {count} | {row['bottleneck_ms']:.4f} "
        f"| {row['lower_bound_ms']:.4f} | {row['gap']:.3%} | {row['cpu_seconds']:.1f} "
        + "".join(f"| {against(key)} " for key in ("uniform", "parameters", *NAMES, "pipedream"))
        + "|"
    )


def record(rows: list[dict[str, Any]], command: str) -> Path:
    """Write a dated record beside the other benchmarks."""
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    certified = sum(row["gap"] <= 1e-6 for row in rows)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    lines = [
        f"# Solver on public graphs, {today}",
        "",
        f"Command: `{command}`. Python {platform.python_version()}, numpy {numpy.__version__}, "
        f"scipy {scipy.__version__}, {platform.machine()}, one thread of {os.cpu_count()} cores, shared with "
        f"other work (so CPU seconds). Peak memory {memory_gb:.2f} GB.",
        "",
        f"{certified} of {len(rows)} cases certified optimal (gap at most 1e-6), "
        f"{sum(row['cpu_seconds'] for row in rows):.0f} s of CPU together. A dash: no such answer, or the "
        "package was not there.",
        "",
        HEADER,
        "|---" * HEADER.count(" | ") + "|---|",
        *map(line, rows),
        "",
    ]
    path = ROOT / "docs" / "benchmarks" / f"solver_public_graphs_{today}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def main(words: list[str] | None = None) -> None:
    """Read the arguments, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=Path, action="append", help="a folder of graphs; may be repeated")
    parser.add_argument("--stages", type=int, nargs="+", help="instead of those of the file")
    parser.add_argument("--replicas", type=int, nargs="+", default=[], help="devices, for PipeDream profiles")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--budget", type=int, default=500_000_000, help="work, about 1e7 a second")
    parser.add_argument(
        "--peers", type=Path, help="site-packages with torchgpipe and deepspeed, see layer_peers"
    )
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks/solver_...md")
    args = parser.parse_args(words)
    folders = args.graphs or [SHARED / name for name in FOLDERS]
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing and args.graphs:
        sys.exit(f"no folder {missing[0]}: give one with --graphs")
    for folder in missing:
        print(f"left out: there is no folder {folder}; --graphs names another")
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        return
    rows, peers = [], LayerPeers(args.peers)
    print(HEADER)
    for problem in chain(*map(read_folder, folders), () if args.graphs else chain(shapes(), model_graphs())):
        for k in args.stages or problem.n_stages:
            rows.append(run(problem, k, args.budget, peers))
            print(line(rows[-1]), flush=True)
        for devices in args.replicas if problem.kind == "pipedream" else ():
            rows.append(run(problem, devices, args.budget, peers, Replicas(exchanges=2.0)))
            print(line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows))
    if args.record:
        given = sys.argv[1:] if words is None else words
        print(record(rows, " ".join(["python tests/benchmarks/solver_graphs.py", *given])))


if __name__ == "__main__":
    main()
