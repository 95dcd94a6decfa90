"""The partition as modules: few enough boxes to read, and what flows between them.

::

    nodes of the plan      wte  add  h.0.ln  h.0.attn.qkv ... h.0.add  h.1.ln ...  | h.5.ln ...      lm_head
    groups by module       wte  add  h.0 ............................  h.1 ......  | h.5 .......     lm_head
    folded (see fold.py)   wte  add  h.0 ... 4 (5 modules) ......................  | h.5 ... 11 ...  lm_head
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autopipe.ir.plan import Plan
from autopipe.view.fold import folded
from autopipe.view.grouping import Group, group_nodes
from autopipe.view.names import joined, short_names
from autopipe.view.operations import Operation, operations
from autopipe.view.units import format_bytes, format_ms

__all__ = ["Box", "Flow", "ModuleGraph", "Wire", "module_graph"]


@dataclass(frozen=True, slots=True)
class Box:
    """What one box of a drawing stands for: nodes of one stage.

    Args:
        stage: Their stage.
        label: What to call it.
        detail: What is in it, if the label does not say: "5 modules", "3 ops", "part".
        fqns: The modules; "" are operations of the model itself.
        nodes: Names of the nodes, in program order.
        fwd_ms: Sum of the nodes' forwards.
        bwd_ms: Sum of the nodes' backwards.
        param_bytes: Their parameters, a tied one once.
        saved_bytes: What they keep for the backward of one microbatch.
    """

    stage: int
    label: str
    detail: str
    fqns: tuple[str, ...]
    nodes: tuple[str, ...]
    fwd_ms: float
    bwd_ms: float
    param_bytes: int
    saved_bytes: int

    @property
    def facts(self) -> str:
        """The detail, the compute time and the parameters, as far as there are any."""
        facts = [self.detail] if self.detail else []
        facts += [format_ms(self.fwd_ms + self.bwd_ms)] if self.fwd_ms + self.bwd_ms else []
        facts += [format_bytes(self.param_bytes)] if self.param_bytes else []
        return ", ".join(facts)


class Flow(NamedTuple):
    """One value on its way.

    Args:
        value: Its name.
        nbytes: Its bytes, a microbatch; between stages what is sent forward.
        grad_nbytes: Bytes that come back for it.
    """

    value: str
    nbytes: int
    grad_nbytes: int


@dataclass(frozen=True, slots=True)
class Wire:
    """What flows from one box to another.

    Args:
        src: Index of the box that makes it; None: somewhere in ``src_stage``.
        dst: Index of the box that reads it; None: somewhere in ``dst_stage``.
        src_stage: Stage of the maker.
        dst_stage: Stage of the reader.
        flows: The values.
        sent: Whether they are messages; what the reader computes again is not.
    """

    src: int | None
    dst: int | None
    src_stage: int
    dst_stage: int
    flows: tuple[Flow, ...]
    sent: bool

    @property
    def cut(self) -> bool:
        """Whether it crosses from a stage to another."""
        return self.src_stage != self.dst_stage


@dataclass(frozen=True, slots=True)
class ModuleGraph:
    """The boxes, in program order, and the wires between them."""

    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]
    n_stages: int

    def boxes_of(self, stage: int) -> list[int]:
        """Indices of the boxes of one stage, in program order."""
        return [index for index, box in enumerate(self.boxes) if box.stage == stage]

    def sent_bytes(self) -> dict[int, int]:
        """Bytes sent from each box to each stage, by the index of the first of their wires."""
        first: dict[tuple[int, int | None, int], int] = {}
        flows: dict[int, set[Flow]] = defaultdict(set)
        for index, wire in enumerate(self.wires):
            if wire.cut and wire.sent:
                flows[first.setdefault((wire.src_stage, wire.src, wire.dst_stage), index)].update(wire.flows)
        return {index: sum(flow.nbytes for flow in found) for index, found in flows.items()}


def module_graph(plan: Plan) -> ModuleGraph:
    """Draw the nodes of a plan together to modules.

    Args:
        plan: The plan. In the small form nothing is known of prices and of what flows inside a stage.

    Returns:
        The boxes and wires; a reader's box never comes before the maker's. O(nodes + edges).
    """
    known = operations(plan)
    edges = _data_edges(plan)
    groups = group_nodes(known, edges)
    stages = _stages_of_modules(known)
    shorter = short_names(group.fqn for group in groups if group.fqn)
    boxes = tuple(_box(plan, run, stages, shorter) for run in folded(groups, edges))
    box_of = {name: index for index, box in enumerate(boxes) for name in box.nodes}
    return ModuleGraph(boxes, tuple(_wires(plan, boxes, box_of, edges)), plan.n_stages)


def _data_edges(plan: Plan) -> list[tuple[str, str]]:
    if plan.cost_graph is None:
        return []
    stage_of = plan.partition.stage_of
    return [(a, b) for a, b, data in plan.cost_graph.edges() if data and a in stage_of and b in stage_of]


def _stages_of_modules(known: Iterable[Operation]) -> dict[str, set[int]]:
    stages: dict[str, set[int]] = defaultdict(set)
    for one in known:
        for unit in one.units:
            stages[unit].add(one.stage)
    return stages


def _box(plan: Plan, run: Sequence[Group], stages: Mapping[str, set[int]], shorter: Mapping[str, str]) -> Box:
    members = [one for group in run for one in group.members]
    first = run[0]
    if first.loose:
        ops = [one.op for one in members]
        label = joined(ops[0], ops[-1])
        detail = f"{len(ops)} ops" if len(ops) > 1 else shorter.get(first.fqn, "")
    else:
        label = joined(shorter[first.fqn], shorter[run[-1].fqn])
        detail = f"{len(run)} modules" if len(run) > 1 else "part" if len(stages[first.fqn]) > 1 else ""
    names = tuple(one.cost.name for one in members)
    return Box(
        first.stage,
        label,
        detail,
        tuple(group.fqn for group in run),
        names,
        sum(one.cost.fwd_ms for one in members),
        sum(one.cost.bwd_ms for one in members),
        _param_bytes(plan, members),
        sum(one.cost.saved_bytes for one in members),
    )


def _param_bytes(plan: Plan, members: Sequence[Operation]) -> int:
    names = {one.cost.name for one in members}
    total = sum(one.cost.param_bytes for one in members)
    for tied in plan.cost_graph.tied if plan.cost_graph else ():
        total -= tied.nbytes * max(0, len(names.intersection(tied.nodes)) - 1)
    return total


def _wires(
    plan: Plan, boxes: Sequence[Box], box_of: Mapping[str, int], edges: Iterable[tuple[str, str]]
) -> Iterable[Wire]:
    sent = {
        (link.value, link.dst): Flow(link.value, link.nbytes, link.grad_nbytes) for link in plan.transfers
    }
    flows: dict[tuple[int | None, int | None, int, int, bool], dict[str, Flow]] = defaultdict(dict)
    read = set()
    for maker, reader in edges:
        src, dst = box_of[maker], box_of[reader]
        if src != dst:
            stage = boxes[dst].stage
            is_sent = (maker, stage) in sent
            flow = sent[maker, stage] if is_sent else Flow(maker, _out_bytes(plan, maker), 0)
            flows[src, dst, boxes[src].stage, stage, is_sent][maker] = flow
            read.add((maker, stage))
    for link in plan.transfers:
        if (link.value, link.dst) not in read:  # readers unknown: the small form, or a value that is no node
            key = (box_of.get(link.value), None, link.src, link.dst, True)
            flows[key][link.value] = sent[link.value, link.dst]
    for (src_box, dst_box, src_stage, dst_stage, is_sent), known in flows.items():
        yield Wire(src_box, dst_box, src_stage, dst_stage, tuple(known.values()), is_sent)


def _out_bytes(plan: Plan, name: str) -> int:
    return plan.cost_graph.node(name).out_bytes if plan.cost_graph else 0
