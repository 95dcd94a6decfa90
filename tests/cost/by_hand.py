"""Captured models without the capture: symbolic tracing and one real run, enough for the cost model."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from autopipe.ir.tensor import TensorSpec
from autopipe.ir.traced import InputLeaf, NodeInfo, TracedModel


def spec_of(value: Any) -> TensorSpec | None:
    if not isinstance(value, torch.Tensor):
        return None
    return TensorSpec(tuple(value.shape), str(value.dtype).removeprefix("torch."), value.requires_grad)


class _Leaves(fx.Tracer):
    def __init__(self, opaque: tuple[str, ...]) -> None:
        super().__init__()
        self._opaque = opaque

    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return (
            not list(m.children()) or isinstance(m, nn.MultiheadAttention) or qualified_name in self._opaque
        )


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.info: dict[str, NodeInfo] = {}
        self._names = {id(p): name for name, p in module.named_parameters()}

    def run_node(self, n: fx.Node) -> Any:
        before = [self.env[a] for a in n.all_input_nodes]
        result = super().run_node(n)
        fqn = str(n.target) if n.op in ("call_module", "get_attr") else ""
        parameters = tuple(self._names[id(t)] for t in before if id(t) in self._names)
        buffers: tuple[str, ...] = ()
        if n.op == "call_module":
            inside = self.fetch_attr(fqn)
            parameters += tuple(self._names[id(p)] for p in inside.parameters())
            buffers = tuple(f"{fqn}.{name}" for name, _ in inside.named_buffers())
        self.info[n.name] = NodeInfo(n.name, fqn, spec_of(result), parameters=parameters, buffers=buffers)
        return result


def trace_by_hand(
    model: nn.Module, *args: torch.Tensor, opaque: tuple[str, ...] = (), **more: Any
) -> TracedModel:
    """Trace a model whose forward takes tensors; ``more`` are fields of TracedModel."""
    graph = _Leaves(opaque).trace(model)
    for node in graph.nodes:
        if node.op == "call_method":
            node.op, node.target = "call_function", getattr(torch.Tensor, node.target)
    recorder = _Recorder(fx.GraphModule(model, graph))
    recorder.run(*args)
    placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
    inputs = tuple(InputLeaf(name, name, recorder.info[name].spec, 0) for name in placeholders)
    modules = {str(n.target): model.get_submodule(n.target) for n in graph.nodes if n.op == "call_module"}
    known = {"constants": {}, "sizes": {}, "derived_sizes": {}, "guards": (), **more}
    return TracedModel(
        graph=graph,
        info=recorder.info,
        modules=modules,
        inputs=inputs,
        in_structure=None,
        out_structure=None,
        out_names=(),
        **known,
    )
