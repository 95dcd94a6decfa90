"""Readers of the three public formats of partition problems; each gives a cost graph and solver options.

::

    an object with "maxFPGAs"              "Efficient Algorithms for Device Placement of DNN Graph
                                           Operators" (NeurIPS 2020)
    an object with "link_bytes_per_s"      torch.export graphs priced by a roofline
    lines "node1 -- name -- forward_..."   PipeDream profiles (SOSP 2019)

What a file holds says which it is, compressed or not; its name says nothing.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Device, Hardware, Link
from autopipe.partition import MemoryRule

BYTES_PER_MS = 10**9
"""Costs given in milliseconds become this many bytes a millisecond on a link of that bandwidth."""

_GZIP = b"\x1f\x8b"

FX_STAGES = (4, 8, 16)
PIPEDREAM_BYTES_PER_S = 1e9


@dataclass(frozen=True)
class PublicProblem:
    """One graph with everything that ``solve`` needs, but the number of stages."""

    name: str
    kind: str
    graph: CostGraph
    hardware: Hardware
    n_stages: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path) -> Iterator[PublicProblem]:
    """Every graph of a folder, in the order of the file names; files of other kinds are left out."""
    for path in sorted(folder.iterdir()):
        problem = read_problem(path) if path.is_file() else None
        if problem is not None:
            yield problem


def read_problem(path: Path) -> PublicProblem | None:
    """One file; None if it is of none of the three formats."""
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw.startswith(_GZIP) else raw).decode()
    except (UnicodeDecodeError, gzip.BadGzipFile):
        return None
    name = re.sub(r"(\.json|\.txt)?(\.gz)?$", "", path.name)
    if any(map(_NODE.match, text.splitlines())):
        return _pipedream(name, text)
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(data, dict):
        return None
    if "maxFPGAs" in data:
        return _device_placement(name, data)
    return _fx(name, data) if "link_bytes_per_s" in data else None


def _hardware(bytes_per_s: float, *, overlap: bool = False) -> Hardware:
    device = Device("any", {}, 1.0, 1, 0.0, "the profile")
    return Hardware("any", (device,), (Link("any", bytes_per_s, 0.0, "the profile"),), overlap)


def _ordered(ids: list[int], edges: list[tuple[int, int]]) -> list[int]:
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(ids)
    graph.add_edges_from(edges)
    place = {node: at for at, node in enumerate(ids)}
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


def _device_placement(name: str, data: dict[str, Any]) -> PublicProblem:
    raw = {node["id"]: node for node in data["nodes"]}
    edges = list(dict.fromkeys((e["sourceId"], e["destId"]) for e in data["edges"]))
    cost = {e["sourceId"]: e["cost"] for e in data["edges"]}
    nodes = [
        CostNode(
            str(i),
            fwd_ms=raw[i]["fpgaLatency"],
            out_bytes=round(cost.get(i, 0.0) * BYTES_PER_MS),
            param_bytes=round(raw[i]["size"]),
        )
        for i in _ordered(list(raw), edges)
    ]
    followers, colours = _colours(raw, edges, cost)
    graph = CostGraph.build(nodes, [(str(a), str(b)) for a, b in edges], together=colours)
    options = {
        "followers": followers,
        "allow_empty": True,
        "memory": MemoryRule(param_multiplier=1.0, keeps_received=False),
        "memory_limit_bytes": int(data["maxSizePerFPGA"]),
    }
    hardware = _hardware(BYTES_PER_MS * 1e3)
    return PublicProblem(name, "device placement", graph, hardware, (data["maxFPGAs"],), options)


def _colours(
    raw: dict[int, dict[str, Any]], edges: list[tuple[int, int]], cost: dict[int, float]
) -> tuple[dict[str, str], list[list[str]]]:
    """Backward nodes follow the forward node of their colour; orphans the dearest neighbour."""
    forward: dict[int, list[str]] = {}
    leader: dict[int, int] = {}
    for i, node in raw.items():
        if node.get("colorClass") is not None and not node["isBackwardNode"]:
            forward.setdefault(node["colorClass"], []).append(str(i))
            leader.setdefault(node["colorClass"], i)
    follows: dict[int, int] = {}
    orphans: dict[object, list[int]] = {}
    for i, node in raw.items():
        if node["isBackwardNode"]:
            if node.get("colorClass") in leader:
                follows[i] = leader[node["colorClass"]]
            else:
                orphans.setdefault(node.get("colorClass", ("alone", i)), []).append(i)
    neighbours: dict[int, list[tuple[int, float]]] = {}
    for a, b in edges:
        neighbours.setdefault(a, []).append((b, cost[a] * (1 + 1e-9)))  # a tie goes to the reader
        neighbours.setdefault(b, []).append((a, cost[a]))
    while orphans:
        pulls = {key: _pull(members, neighbours, follows, raw, leader) for key, members in orphans.items()}
        key = max(pulls, key=lambda x: pulls[x][0])
        follows.update((i, pulls[key][1]) for i in orphans.pop(key))
    return {str(a): str(b) for a, b in follows.items()}, [c for c in forward.values() if len(c) > 1]


def _pull(
    members: list[int],
    neighbours: dict[int, list[tuple[int, float]]],
    follows: dict[int, int],
    raw: dict[int, dict[str, Any]],
    leader: dict[int, int],
) -> tuple[float, int]:
    """The forward node whose stage shares the dearest edges with some orphans, and their cost."""
    pull: dict[int, float] = {}
    for i in members:
        for j, cost in neighbours.get(i, ()):
            if j in follows or not raw[j]["isBackwardNode"]:
                home = follows.get(j, leader.get(raw[j].get("colorClass", -1), j))
                pull[home] = pull.get(home, 0.0) + cost
    if not pull:
        return -1.0, next(i for i, node in raw.items() if not node["isBackwardNode"])
    home = max(pull, key=lambda x: pull[x])
    return pull[home], home


def _fx(name: str, data: dict[str, Any]) -> PublicProblem:
    nodes = []
    for node in data["nodes"]:
        sent = 0 if node["op"] == "placeholder" else node["out_bytes"]
        nodes.append(
            CostNode(
                str(node["id"]),
                fqn=node["name"],
                fwd_ms=3 * node["time_fw_ms"],
                out_bytes=sent,
                grad_bytes=sent,
                param_bytes=node["param_bytes"],
            )
        )
    edges = [(str(a), str(b)) for a, b in data["edges"]]
    hardware = _hardware(data["link_bytes_per_s"])
    return PublicProblem(
        name, "fx", CostGraph.build(nodes, edges), hardware, FX_STAGES, {"allow_empty": True}
    )


_NODE = re.compile(
    r"(?P<id>\S+) -- (?P<name>.*) -- forward_compute_time=(?P<fwd>[\d.e+-]+), "
    r"backward_compute_time=(?P<bwd>[\d.e+-]+), "
    r"activation_size=(?P<act>.+), parameter_size=(?P<par>[\d.e+-]+)"
)


def _pipedream(name: str, text: str) -> PublicProblem:
    nodes: dict[str, CostNode] = {}
    edges: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("\t"):
            source, target = line.strip().split(" -- ")
            edges.append((source, target))
        elif match := _NODE.match(line):
            sizes = [float(x) for x in re.findall(r"[\d.]+(?:e[+-]?\d+)?", match["act"])]
            sent = round(sum(sizes))
            if match["name"].startswith("Input"):
                nodes[match["id"]] = CostNode(match["id"], fqn=match["name"])
                continue
            nodes[match["id"]] = CostNode(
                match["id"],
                fqn=match["name"],
                fwd_ms=float(match["fwd"]),
                bwd_input_ms=float(match["bwd"]),
                out_bytes=sent,
                grad_bytes=sent,
                param_bytes=round(float(match["par"])),
            )
    place = {node: i for i, node in enumerate(nodes)}
    order = _ordered(list(place.values()), [(place[a], place[b]) for a, b in edges])
    ids = list(nodes)
    graph = CostGraph.build([nodes[ids[i]] for i in order], edges)
    hardware = _hardware(PIPEDREAM_BYTES_PER_S, overlap=True)
    return PublicProblem(name, "pipedream", graph, hardware, (4, 8), {"allow_empty": True})
