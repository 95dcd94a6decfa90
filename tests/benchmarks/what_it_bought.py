"""What each freedom of the solver buys on models/: each is taken away in turn, and the best split found.

recomputed values    sent instead, whatever they cost
tied parameters      all their readers in one stage
cuts inside a block  only between blocks, the elements of the model's lists of modules
ties                 the first split of the least bottleneck, whatever else it costs
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

import autopipe
from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.partition import Partition
from autopipe.ir.plan import Plan
from autopipe.partition import Objective, Rules, compile_problem, solve
from autopipe.partition.baselines import to_partition
from autopipe.partition.search import search
from autopipe.partition.solver import BUDGET
from models import NAMES
from models.protocol import load
from tests.benchmarks.record import Record, Rows

N_STAGES, N_MICROBATCHES, SAMPLES = 4, 16, 8
MACHINES = ("h100", "h100+infiniband", "h100+ethernet")
SIZES: dict[str, dict[str, Any]] = {
    "gpt": {"n_blocks": 12, "width": 768, "n_heads": 12, "context": 1024, "vocab": 50304},
    "llama_like": {
        "n_layers": 12,
        "width": 1024,
        "n_heads": 16,
        "hidden": 2816,
        "context": 1024,
        "vocab": 32000,
    },
    "tied_lm": {
        "n_repeats": 6,
        "width": 768,
        "embedding": 128,
        "n_heads": 12,
        "context": 512,
        "vocab": 30000,
    },
    "unet": {"width": 128, "image": 64},
    "two_tower": {"vocab": 30000, "catalogue": 100_000, "width": 512, "n_blocks": 8, "n_tokens": 128},
    "mixture_of_experts": {"n_blocks": 8, "width": 512, "n_heads": 8, "n_experts": 8, "context": 512},
    "encoder_decoder": {"n_blocks": 6, "width": 512, "n_heads": 8, "context": 256, "vocab": 32000},
    "recommender": {"width": 64, "hidden": 2048},
    "lstm": {"n_layers": 4, "width": 1024, "context": 128, "vocab": 32000},
    "resnet": {"width": 64, "n_blocks": 4, "image": 64},
}
"""Sizes at which people train such models, nearly; the defaults of models/ are for tests."""
METHOD = f"""\
models/ on meta at the sizes in the file, {SAMPLES} samples a microbatch, {N_STAGES} stages,
{N_MICROBATCHES} microbatches, no memory limit. "ms" is the bottleneck, "MiB" what crosses for a microbatch,
both ways; "computed again" is how many values their readers compute for themselves. Every other column is
the best split without one freedom: by how much its bottleneck is above, and where bytes are shown, what
crosses then. "if sent": no value is computed again. "together": tied parameters in one stage; -- where none
is read in several. "whole blocks": no cut inside an element of a list of modules. "first found": what
crosses before ties are broken. All splits are certified, or the gap is shown."""


class Row(NamedTuple):
    """One model on one machine."""

    model: str
    ms: float
    mib: float
    cells: tuple[str, ...]

    def shown(self) -> tuple[str, ...]:
        """As the table has it."""
        return (self.model, f"{self.ms:.3g}", f"{self.mib:.3g}", *self.cells)


def planned(name: str, machine: str) -> Plan:
    """Plan one of models/ on meta."""
    file = load(name)
    with torch.device("meta"):
        model = file.build(**SIZES[name])
    example = file.example(SAMPLES, **SIZES[name])
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), example)
    return autopipe.plan(model, N_STAGES, args, kwargs, hardware=machine, n_microbatches=N_MICROBATCHES)


def row_of(name: str, machine: str) -> Row:
    """Take every freedom away in turn."""
    plan = planned(name, machine)
    graph = plan.cost_graph
    assert graph is not None
    ours = answered(graph, plan)
    assert ours is not None
    sent = answered(without_recompute(graph), plan)
    tied = [tied.nodes for tied in graph.tied if len({ours.stage_of[name] for name in tied.nodes}) > 1]
    together = answered(graph, plan, tied) if tied else None
    whole = answered(graph, plan, blocks_of(graph))
    first = first_found(graph, plan)
    cells = (
        f"{len(ours.recomputed)}" if ours.recomputed else "-",
        f"{above(sent, ours)}, {mib(sent):.3g} MiB" if ours.recomputed and sent is not None else "-",
        above(together, ours) if tied else "--",
        above(whole, ours),
        f"{mib(first):.3g} MiB" if mib(first) != mib(ours) else "-",
    )
    return Row(name, ours.certificate.bottleneck_ms, mib(ours), cells)


def answered(graph: CostGraph, plan: Plan, together: Iterable[Iterable[str]] = ()) -> Partition | None:
    """The best split; None if there is none."""
    try:
        return solve(
            graph,
            N_STAGES,
            hardware=plan.hardware,
            together=together,
            n_microbatches=N_MICROBATCHES,
        )
    except PartitionError:
        return None


def first_found(graph: CostGraph, plan: Plan) -> Partition:
    """The split that the search comes upon, before ties are broken."""
    again = answered(graph, plan)
    assert again is not None
    rules = Rules(n_microbatches=N_MICROBATCHES, recomputed=frozenset(again.recomputed))
    prices = Objective(graph, plan.hardware, N_STAGES, rules)
    problem = compile_problem(prices)
    found = search(problem, BUDGET)
    assert found.stage_of is not None
    return to_partition(prices, problem, found.stage_of, found.method, found.lower_bound_ms, found.stopped_by)


def without_recompute(graph: CostGraph) -> CostGraph:
    """The same graph, where every value that is read elsewhere is sent."""
    nodes = [replace(node, recomputable=False) for node in graph.nodes]
    return CostGraph.build(nodes, graph.edges(), graph.together, graph.tied)


def blocks_of(graph: CostGraph) -> list[list[str]]:
    """Nodes by the element of a list of modules that they run in: ``blocks.3`` of ``blocks.3.mlp.up``."""
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        parts = node.fqn.split(".")
        at = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if at is not None:
            found.setdefault(".".join(parts[: at + 1]), []).append(node.name)
    return [names for names in found.values() if len(names) > 1]


def mib(partition: Partition | None) -> float:
    """What crosses for one microbatch, forward and back."""
    return sum(stage.recv_bytes for stage in partition.stages) / 2**20 if partition is not None else 0.0


def above(other: Partition | None, ours: Partition) -> str:
    """By how much a bottleneck is above ours, with the gap where it is not certified."""
    if other is None:
        return "impossible"
    certificate = other.certificate
    more = certificate.bottleneck_ms / ours.certificate.bottleneck_ms - 1
    gap = f" (gap {certificate.gap:.1%})" if certificate.stopped_by != "optimal" else ""
    return f"+{max(0.0, more):.1%}{gap}"


def main() -> None:
    """Print the tables; with --record write the page."""
    record = Record(
        "what_it_bought",
        "What each freedom buys",
        "python -m tests.benchmarks.what_it_bought --record",
        METHOD,
    )
    columns = ("model", "ms", "MiB", "computed again", "if sent", "together", "whole blocks", "first found")
    tables = []
    for machine in MACHINES:
        rows = [row_of(name, machine).shown() for name in NAMES]
        tables.append(Rows(machine, columns, rows))
        tables[-1].show()
    if "--record" in sys.argv[1:]:
        record.write(tables, [])


if __name__ == "__main__":
    main()
