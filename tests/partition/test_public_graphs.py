"""Public graphs with known optima; loads come from the raw files by the published formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autopipe.partition import solve
from tests.benchmarks.graph_formats import read_problem

GRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "partition-graphs"
OPTIMA_MS = {
    "layer-bert24-inference": 17.7899,
    "layer-bert24-training": 41.7458,
    "layer-resnet50-inference": 34.2229,
    "layer-resnet50-training": 80.4549,
    "layer-gnmt-inference": 32.9107,
    "layer-inceptionv3-inference": 52.2016,
    "operator-bert-l-3-inference": 27.9186,
    "operator-bert-l-3-training": 65.3031,
    "operator-bert-l-12-inference": 147.4780,
    "operator-resnet50-inference": 128.0735,
}


def largest_load(data: dict[str, Any], stage_of: dict[str, int]) -> float:
    """Compute inside, each distinct tensor in and each distinct tensor out."""
    loads: dict[int, float] = {}
    for node in data["nodes"]:
        stage = stage_of[str(node["id"])]
        loads[stage] = loads.get(stage, 0.0) + node["fpgaLatency"]
    cost = {edge["sourceId"]: edge["cost"] for edge in data["edges"]}
    crossing = set()
    for edge in data["edges"]:
        source, target = stage_of[str(edge["sourceId"])], stage_of[str(edge["destId"])]
        if source != target:
            crossing |= {(edge["sourceId"], source), (edge["sourceId"], target)}
    for maker, stage in crossing:
        loads[stage] += cost[maker]
    return max(loads.values())


@pytest.mark.skipif(not GRAPHS.is_dir(), reason="the public graphs are not beside the repository")
@pytest.mark.parametrize("name", OPTIMA_MS)
def test_known_optimum_is_found_and_proven(name: str) -> None:
    path = GRAPHS / f"{name}.json"
    problem = read_problem(path)
    assert problem is not None
    partition = solve(problem.graph, problem.n_stages[0], hardware=problem.hardware, **problem.options)
    assert partition.certificate.gap <= 1e-6
    assert partition.certificate.bottleneck_ms == pytest.approx(OPTIMA_MS[name], abs=6e-5)
    data = json.loads(path.read_text())
    assert partition.certificate.bottleneck_ms == pytest.approx(largest_load(data, dict(partition.stage_of)))
    colour = {str(node["id"]): node.get("colorClass") for node in data["nodes"]}
    homes: dict[Any, set[int]] = {}
    for node, stage in partition.stage_of.items():
        homes.setdefault(colour[node], set()).add(stage)
    assert all(len(stages) == 1 for key, stages in homes.items() if key is not None)
