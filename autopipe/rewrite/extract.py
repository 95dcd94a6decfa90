"""Cut a captured model into stages, one fx.GraphModule each.

Three steps, each a function of what the one before returned: find what each stage consists of
(``boundary.stage_contents``), clone its nodes into a graph of its own, and put the user's modules under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import fx, nn

from autopipe.ir.stages import Argument, ArgumentKind, StagedModel, StageModule
from autopipe.ir.traced import Region, TracedModel
from autopipe.rewrite.borrowed import lend_modules, lend_tensors
from autopipe.rewrite.boundary import StageContent, stage_contents
from autopipe.rewrite.gradients import values_with_gradient
from autopipe.rewrite.random_keys import enter_key, enter_key_outside
from autopipe.rewrite.regions import enter_region, leave_region
from autopipe.rewrite.tied import tied_tensors, users_of_tensors
from autopipe.rewrite.written import written_tensors


def rewrite(
    traced: TracedModel,
    model: nn.Module,
    stage_of: Mapping[str, int],
    n_stages: int,
    recomputed: Set[str] = frozenset(),
) -> StagedModel:
    """Cut a captured model into stages with explicit ports.

    Args:
        traced: The captured model.
        model: The user's model; the stages hold its own modules and parameters, and nothing in it is changed.
        stage_of: Node name -> stage. A node that is not in it must be cheap and without effects, such as an
            expression over sizes: it is repeated in every stage that reads it.
        n_stages: How many stages; some may be empty.
        recomputed: Nodes that run in every stage that reads them, where they can and carry no gradient.

    Returns:
        The stages, valid by ``StagedModel.verify``.

    Raises:
        PartitionError: If ``stage_of`` lets a value flow backwards, or cuts what is no tensor.
    """
    trained = {fqn for fqn, parameter in model.named_parameters() if parameter.requires_grad}
    trained |= {leaf.name for leaf in traced.inputs if leaf.spec.requires_grad}
    contents = stage_contents(traced, stage_of, n_stages, values_with_gradient(traced, trained), recomputed)
    stages = tuple(_stage(traced, model, index, content) for index, content in enumerate(contents))
    users = users_of_tensors(model, stages)
    staged = StagedModel(
        traced=traced,
        stages=stages,
        tied=tied_tensors(model, users),
        stage_of=dict(stage_of),
        out_stages=tuple(_out_stage(name, stage_of, contents) for name in traced.out_names),
        parameters_of=users,
    )
    staged.verify()
    return staged


def _out_stage(
    name: str | None, stage_of: Mapping[str, int], contents: tuple[StageContent, ...]
) -> int | None:
    if name is None:
        return None
    last = len(contents) - 1
    return last if name in contents[last].results else stage_of[name]


def _stage(traced: TracedModel, model: nn.Module, index: int, content: StageContent) -> StageModule:
    leaves = [str(node.target) for node in content.nodes if node.op == "call_module"]
    tensors = [str(node.target) for node in content.nodes if node.op == "get_attr"]
    own = [fqn for fqn in tensors if fqn not in traced.constants]
    module = fx.GraphModule(nn.Module(), fx.Graph(), class_name=f"Stage{index}")
    lend_modules(module, {fqn: traced.modules[fqn] for fqn in leaves})
    lend_tensors(module, model, own)
    for name in set(tensors) & traced.constants.keys():
        setattr(module, name, traced.constants[name])
    module.graph = _Clone(traced, content).graph()
    module.meta["device"] = traced.device
    written = written_tensors(traced, model, content.nodes, module)
    return StageModule(
        index=index,
        module=module,
        arguments=_arguments(traced, content),
        results=content.results,
        recv=content.recv,
        send=content.send,
        fqns=tuple(dict.fromkeys([*leaves, *own])),
        written=written.seen,
        mutated=written.all,
    )


def _arguments(traced: TracedModel, content: StageContent) -> tuple[Argument, ...]:
    inputs = {leaf.name for leaf in traced.inputs}
    found: list[tuple[ArgumentKind, str]] = [
        ("input" if node.name in inputs else "size", str(node.target)) for node in content.placeholders
    ]
    found += [("recv", port.value) for port in content.recv if not port.output_only]
    return tuple(Argument(kind, name) for kind, name in found)


class _Clone:
    """The graph of one stage in the making.

    Args:
        traced: The captured model.
        content: What the stage consists of.
    """

    def __init__(self, traced: TracedModel, content: StageContent) -> None:
        self._traced, self._content = traced, content
        self._graph = fx.Graph()
        self._made: dict[str, fx.Node] = {}
        self._ambient = _ambient(traced)
        self._region = self._ambient

    def graph(self) -> fx.Graph:
        """Clone everything and return the graph."""
        for placeholder in self._content.placeholders:
            self._made[placeholder.name] = self._graph.placeholder(str(placeholder.target))
        received = [port.value for port in self._content.recv if not port.output_only]
        for value in received:
            self._made[value] = self._graph.placeholder(value)
        written = self._written()
        given = [node.name for node in self._content.placeholders if node.name in self._traced.info]
        for value in [value for value in (*given, *received) if value in written]:
            self._made[value] = self._graph.call_function(
                torch.clone, (self._made[value],), name=f"{value}_own"
            )
        for node in self._content.nodes:
            self._clone(node)
        self._change_region(self._ambient)
        self._graph.output(tuple(self._made[name] for name in self._content.results))
        self._graph.lint()
        return self._graph

    def _written(self) -> set[str]:
        info = self._traced.info
        return {name for node in self._content.nodes if node.name in info for name in info[node.name].writes}

    def _clone(self, node: fx.Node) -> None:
        info = self._traced.info.get(node.name)
        if info is not None and node.op != "get_attr":
            self._change_region(info.region)
            if info.is_random:
                self._graph.call_function(enter_key, (info.key,))
            if info.draws_outside_torch:
                self._graph.call_function(enter_key_outside, (info.key,))
        self._made[node.name] = self._graph.node_copy(node, lambda argument: self._made[argument.name])

    def _change_region(self, region: Region) -> None:
        """Leave the region of the node before, and enter the next one; the ambient one needs no call."""
        if region == self._region:
            return
        if self._region != self._ambient:
            self._graph.call_function(leave_region)
        if region != self._ambient:
            modes = (region.grad_enabled, region.inference, region.autocast)
            self._graph.call_function(enter_region, modes)
        self._region = region


def _ambient(traced: TracedModel) -> Region:
    """The modes that were on when the capture began; the inputs were met under them."""
    known = [traced.info[leaf.name].region for leaf in traced.inputs if leaf.name in traced.info]
    return known[0] if known else Region()
