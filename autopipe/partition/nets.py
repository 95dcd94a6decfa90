"""Nets: who has to pay when a value, or a tied parameter, has ends in several stages.

A net joins the nodes that touch one tensor. A stage pays for it if it touches the net and does not
contain it: the maker's stage for sending, every other touching stage for receiving, once each::

    maker --+-- reader 1        stages {maker, r1} {r2}:  the first sends once, the second receives once
            +-- reader 2        stages {maker} {r1, r2}:  the same
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from autopipe.ir.cost_graph import CostGraph


@dataclass(frozen=True, slots=True)
class Net:
    """One tensor and the nodes that touch it.

    Args:
        name: The node that makes it, or the tied parameter.
        maker: Index of the node that makes it (of a tied parameter: that owns it).
        pins: Indices of all nodes that touch it, the maker included, ascending.
        out_bytes: What goes out from the maker.
        grad_bytes: What comes back.
        share: How often a microbatch: 1, or 1 / n_microbatches for a tied parameter.
        again: Readers in other stages compute it again, and nothing is sent.
        tied: It is a parameter: what arrives is a replica and counted as such, not as an activation.
        kept_bytes: What a stage that does not make it keeps of it for one microbatch: a received value, or
            what computing it again keeps.
    """

    name: str
    maker: int
    pins: tuple[int, ...]
    out_bytes: int
    grad_bytes: int
    share: float = 1.0
    again: bool = False
    tied: bool = False
    kept_bytes: int = 0


def build_nets(graph: CostGraph, recomputed: Collection[str] = ()) -> tuple[Net, ...]:
    """All nets that can cost something.

    A reader that is itself computed again needs its inputs wherever its own readers are: its pins
    are added to theirs.

    Args:
        graph: The cost graph.
        recomputed: Nodes whose value is computed again on the far side.

    Returns:
        One net a value that is read, in program order, then one a tied parameter, exchanged every microbatch.

    Complexity: linear in the pins.
    """
    index = {name: i for i, name in enumerate(graph.graph)}
    pins: dict[str, set[int]] = {}
    for name in reversed(list(graph.graph)):
        mine = pins[name] = {index[name]}
        for reader, edge in graph.graph.adj[name].items():
            if edge["data"]:
                mine |= pins[reader] if reader in recomputed else {index[reader]}
    nets = []
    for node in graph.nodes:
        again = node.name in recomputed
        if len(pins[node.name]) > 1 and (node.out_bytes or node.grad_bytes or again):
            ends = tuple(sorted(pins[node.name]))
            kept = node.saved_bytes if again else node.out_bytes
            nets.append(
                Net(
                    name=node.name,
                    maker=index[node.name],
                    pins=ends,
                    out_bytes=node.out_bytes,
                    grad_bytes=node.grad_bytes,
                    again=again,
                    kept_bytes=kept,
                )
            )
    for tied in graph.tied:
        ends = tuple(sorted({index[name] for name in tied.nodes}))
        if len(ends) > 1:
            nets.append(Net(tied.name, ends[0], ends, tied.nbytes, tied.nbytes, tied=True))
    return tuple(nets)


def spread(nets: tuple[Net, ...], n_microbatches: int) -> tuple[Net, ...]:
    """The same nets, the exchange of tied parameters spread over so many microbatches."""
    n_tied = sum(net.tied for net in nets)
    share = 1.0 / n_microbatches
    return (*nets[: len(nets) - n_tied], *(replace(net, share=share) for net in nets[len(nets) - n_tied :]))
