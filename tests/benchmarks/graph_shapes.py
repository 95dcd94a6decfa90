"""Made-up graphs of shapes that are hard in other ways than the public ones: very long, or very wide.

::

    transformer   40 operators a block, a residual stream, rotary tables read by every block
    experts       a router and E experts side by side in every block, each of three operators
    towers        two encoders that meet in the last operator

Times are of the order of a roofline on a large device; transfers are 25 GB/s.
"""

from __future__ import annotations

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Device, Hardware, Link
from tests.benchmarks.graph_formats import PublicProblem

_LINK = 25e9
_SMALL, _LARGE = 0.006, 1.2


class _Draft:
    """Nodes and edges as they are added."""

    def __init__(self) -> None:
        self.nodes: list[CostNode] = []
        self.edges: list[tuple[str, str]] = []

    def add(self, name: str, fwd_ms: float, out_bytes: int, *reads: str) -> str:
        self.nodes.append(CostNode(name, fwd_ms=fwd_ms, out_bytes=out_bytes, grad_bytes=out_bytes))
        self.edges += [(source, name) for source in dict.fromkeys(reads)]
        return name

    def chain(self, name: str, costs: tuple[float, ...], out_bytes: int, *reads: str) -> str:
        """Operators one after the other, the first of which reads."""
        for at, fwd_ms in enumerate(costs):
            reads = (self.add(f"{name}.{at}", fwd_ms, out_bytes, *reads),)
        return reads[0]

    def problem(self, name: str, n_stages: tuple[int, ...]) -> PublicProblem:
        device = Device("any", {}, 1.0, 1, 0.0, "made up")
        hardware = Hardware("any", (device,), (Link("any", _LINK, 0.0, "made up"),))
        graph = CostGraph.build(self.nodes, self.edges)
        return PublicProblem(name, "shape", graph, hardware, n_stages, {"allow_empty": True})


def transformer(n_blocks: int = 128, n_stages: tuple[int, ...] = (64,)) -> PublicProblem:
    """A decoder with rotary tables that every block reads."""
    draft, wide = _Draft(), 32_000_000
    stream = draft.add("embed", _SMALL, wide)
    tables = [draft.chain(part, (_SMALL,) * 3, 500_000) for part in ("cos", "sin")]
    for block in range(n_blocks):
        name = f"block{block}"
        normed = draft.chain(f"{name}.norm1", (_SMALL,) * 7, wide, stream)
        heads = []
        for part in ("q", "k"):
            made = draft.chain(f"{name}.{part}", (_LARGE, _SMALL), wide, normed)
            turned = draft.chain(f"{name}.{part}.turn", (_SMALL,) * 2, wide, made, tables[1])
            kept = draft.add(f"{name}.{part}.keep", _SMALL, wide, made, tables[0])
            heads.append(draft.add(f"{name}.{part}.sum", _SMALL, wide, kept, turned))
        heads.append(draft.chain(f"{name}.v", (_LARGE, _SMALL), wide, normed))
        mixed = draft.chain(f"{name}.attend", (2 * _LARGE, _SMALL, _SMALL, _LARGE, _SMALL), wide, *heads)
        stream = draft.add(f"{name}.add1", _SMALL, wide, stream, mixed)
        normed = draft.chain(f"{name}.norm2", (_SMALL,) * 7, wide, stream)
        gate = draft.chain(f"{name}.gate", (3 * _LARGE, _SMALL), 3 * wide, normed)
        up = draft.add(f"{name}.up", 3 * _LARGE, 3 * wide, normed)
        down = draft.chain(f"{name}.down", (_SMALL, 3 * _LARGE), wide, gate, up)
        stream = draft.add(f"{name}.add2", _SMALL, wide, stream, down)
    draft.chain("head", (_SMALL, 4 * _LARGE), wide, stream)
    return draft.problem(f"transformer_{n_blocks}_blocks", n_stages)


def experts(n_experts: int = 64, n_blocks: int = 8, n_stages: tuple[int, ...] = (8,)) -> PublicProblem:
    """A mixture of experts, each its own branch of every block."""
    draft, wide = _Draft(), 8_000_000
    stream = draft.add("embed", _SMALL, wide)
    for block in range(n_blocks):
        name = f"block{block}"
        mixed = draft.chain(f"{name}.attend", (_LARGE, 2 * _LARGE, _LARGE), wide, stream)
        stream = draft.add(f"{name}.add1", _SMALL, wide, stream, mixed)
        router = draft.add(f"{name}.router", _SMALL, 100_000, stream)
        branches = [
            draft.chain(
                f"{name}.expert{e}", (0.1 + 0.01 * (e % 7), 0.02, 0.1), wide // n_experts, stream, router
            )
            for e in range(n_experts)
        ]
        stream = draft.add(f"{name}.add2", 0.05, wide, stream, *branches)
    draft.add("head", _LARGE, wide, stream)
    return draft.problem(f"experts_{n_experts}", n_stages)


def towers(n_blocks: int = 24, n_stages: tuple[int, ...] = (8,)) -> PublicProblem:
    """Two encoders side by side, one of them twice as dear."""
    draft, ends = _Draft(), []
    for tower, (ms, wide) in {"text": (0.5, 6_000_000), "image": (1.0, 16_000_000)}.items():
        stream = draft.add(f"{tower}.embed", _SMALL, wide)
        for block in range(n_blocks):
            name = f"{tower}.block{block}"
            mixed = draft.chain(f"{name}.attend", (ms, 2 * ms, ms), wide, stream)
            stream = draft.add(f"{name}.add1", _SMALL, wide, stream, mixed)
            fed = draft.chain(f"{name}.feed", (2 * ms, 0.05, 2 * ms), wide, stream)
            stream = draft.add(f"{name}.add2", _SMALL, wide, stream, fed)
        ends.append(draft.add(f"{tower}.pool", _SMALL, 4096, stream))
    draft.add("similarity", _SMALL, 64, *ends)
    return draft.problem("towers", n_stages)


def shapes() -> list[PublicProblem]:
    """All of them, at their full size."""
    return [transformer(), experts(), towers()]
