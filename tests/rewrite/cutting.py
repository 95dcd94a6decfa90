"""Cuts a captured model by hand, so that the rewrite is tested without a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.ir.traced import TracedModel
from autopipe.rewrite import rewrite
from autopipe.runtime.stage_call import call_stage
from autopipe.trace import capture

Cut = Callable[[fx.Node, float], int]  # (node, its place in the program from 0 to 1) -> wished stage


def legal(traced: TracedModel, wish: Mapping[str, int]) -> dict[str, int]:
    """Raise stages until values flow forward, order is kept and groups are together."""
    stage_of = dict(wish)
    while True:
        before = dict(stage_of)
        for node in traced.compute_nodes():
            earlier = [stage_of[arg.name] for arg in node.all_input_nodes if arg.name in stage_of]
            stage_of[node.name] = max([stage_of[node.name], *earlier])
        for first, second in traced.order:
            stage_of[second] = max(stage_of[first], stage_of[second])
        for node in traced.compute_nodes():
            if traced.info[node.name].spec is None:
                for reader in node.users:
                    if reader.name in stage_of:
                        stage_of[node.name] = max(stage_of[node.name], stage_of[reader.name])
        for group in traced.together:
            top = max(stage_of[name] for name in group if name in stage_of)
            stage_of.update({name: top for name in group if name in stage_of})
        if stage_of == before:
            return stage_of


def evenly(traced: TracedModel, n_stages: int) -> dict[str, int]:
    """As many nodes a stage as possible, in program order."""
    nodes = traced.compute_nodes()
    return legal(traced, {node.name: i * n_stages // len(nodes) for i, node in enumerate(nodes)})


def by_fqn(traced: TracedModel, stage_of_prefix: Mapping[str, int]) -> dict[str, int]:
    """The stage of the longest prefix of the node's FQN, else that of the node before."""
    wish: dict[str, int] = {}
    stage = 0
    for node in traced.compute_nodes():
        fqn = traced.info[node.name].fqn
        fits = [prefix for prefix in stage_of_prefix if fqn == prefix or fqn.startswith(f"{prefix}.")]
        stage = stage_of_prefix[max(fits, key=len)] if fits else stage
        wish[node.name] = stage
    return legal(traced, wish)


def split(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    n_stages: int,
    stages: Mapping[str, int] | None = None,
) -> StagedModel:
    """Capture and cut: by FQN prefixes where they are given, else evenly."""
    traced = capture(model, args, kwargs or {})
    stage_of = evenly(traced, n_stages) if stages is None else by_fqn(traced, stages)
    return rewrite(traced, model, stage_of, n_stages)


def run(staged: StagedModel, *args: Any, **kwargs: Any) -> Any:
    """Run the stages one after the other."""
    _, tensors = Structure.of((args, kwargs))
    values: dict[str, Any] = dict(staged.traced.bind([tuple(t.shape) for t in tensors]) or {})
    values |= {leaf.name: tensor for leaf, tensor in zip(staged.traced.inputs, tensors, strict=True)}
    for stage in staged.stages:
        values |= call_stage(stage, values)
    return staged.traced.out_structure.fill([name and values[name] for name in staged.traced.out_names])
