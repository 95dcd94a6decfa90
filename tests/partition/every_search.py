"""Solves one graph by every search that there is and prints the answers: run in processes of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Device, Hardware, Link
from autopipe.partition import Replicas, solve
from autopipe.partition.rung import Rung, Stopped
from autopipe.partition.sweep import Sweep
from autopipe.partition.walk import Path

WIRES = Hardware(
    "wires", (Device("gpu", {}, 1e12, 2**34, 0.0, "a test"),), (Link("wire", 500.0, 0.0, "a test"),)
)


def parallel_branches(n_cells: int, n_branches: int) -> CostGraph:
    """Cells of unequal branches side by side, read by the next two cells: too many downsets to list."""
    nodes, edges = [CostNode("cell0", fwd_ms=1.0, out_bytes=2)], []
    for c in range(1, n_cells):
        nodes.append(CostNode(f"cell{c}", fwd_ms=0.5, out_bytes=2))
        for b in range(n_branches):
            ends = f"in{c}{b}", f"out{c}{b}"
            nodes[-1:-1] = [
                CostNode(name, fwd_ms=1.0 + 0.1 * ((3 * c + b + at) % 5), out_bytes=1)
                for at, name in enumerate(ends)
            ]
            source = f"cell{max(0, c - 1 - b % 2)}"
            edges += [(source, ends[0]), ends, (ends[1], f"cell{c}")]
    return CostGraph.build(nodes, edges)


def answers() -> Iterator[dict[str, Any]]:
    """By windows, by a sweep, by walks; with replicas, and with two stages a rank."""
    graph = parallel_branches(6, 3)
    yield solve(graph, 5, hardware=WIRES, replicas=Replicas()).to_json()
    yield solve(parallel_branches(3, 2), 4, hardware=WIRES, n_ranks=2).to_json()
    yield solve(graph, 5, hardware=WIRES, allow_empty=True).to_json()
    Rung.windows = lambda *_: Stopped.BUDGET  # type: ignore[method-assign]
    yield solve(graph, 5, hardware=WIRES, allow_empty=True).to_json()
    Sweep.run = lambda *_: Path(None, np.inf, False, 1)  # type: ignore[method-assign]
    yield solve(graph, 5, hardware=WIRES, allow_empty=True).to_json()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(list(answers())))
