"""Random cost graphs and hardware for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam
from autopipe.ir.hardware import Device, Hardware, Link

GPU = Device("gpu", {}, 1e12, 2**34, 0.0, "a test")


def wires(
    bytes_per_ms: float = 1.0, *more: float, overlap: bool = False, latency_ms: float = 0.0
) -> Hardware:
    """Hardware with links of so many bytes a millisecond."""
    links = tuple(
        Link(f"wire{i}", rate * 1e3, latency_ms, "a test") for i, rate in enumerate((bytes_per_ms, *more))
    )
    return Hardware("wires", (GPU,), links, overlap=overlap)


DTYPES = ("float32", "float32", "bfloat16", "frozen")


def trained(dtype: str, nbytes: int) -> dict[str, int]:
    """What a cost node says of its trained parameters, if all are of a kind."""
    each = {"float32": {}, "bfloat16": {"trained_bytes": nbytes, "n_trained": nbytes // 2}}
    return each.get(dtype, {"trained_bytes": 0, "n_trained": 0})  # type: ignore[return-value]


@st.composite
def cost_graphs(draw: st.DrawFn, max_nodes: int = 7, groups: bool = False, tied: bool = False) -> CostGraph:
    """A small DAG with any costs; zeros are likely."""
    n = draw(st.integers(2, max_nodes))
    cost = st.sampled_from([0, 0, 1, 2, 3, 5, 8])
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in range(n)]
    nodes = [
        CostNode(
            f"n{i}",
            fwd_ms=draw(cost),
            bwd_input_ms=draw(cost),
            out_bytes=draw(cost),
            grad_bytes=draw(st.sampled_from([0, 1])),
            param_bytes=(size := draw(cost)),
            saved_bytes=draw(cost),
            **trained(dtypes[i], size),
        )
        for i in range(n)
    ]
    pairs = [(f"n{a}", f"n{b}") for b in range(1, n) for a in range(b)]
    kinds = draw(st.lists(st.sampled_from([None, None, True, True, False]), min_size=len(pairs)))
    edges = [(a, b, kind) for (a, b), kind in zip(pairs, kinds, strict=False) if kind is not None]
    names = [f"n{i}" for i in range(n)]
    together = [draw(st.lists(st.sampled_from(names), min_size=2, max_size=2, unique=True))] if groups else []
    shared = []
    if tied:
        users = draw(st.lists(st.sampled_from(names), min_size=2, max_size=3, unique=True))
        size = min(node.param_bytes for node in nodes if node.name in users)
        among = {dtypes[names.index(user)] for user in users}
        dtype = among.pop() if len(among) == 1 else "frozen"
        shared = [TiedParam("w", size, tuple(users), **trained(dtype, size))]
    return CostGraph.build(nodes, edges, together, shared)
