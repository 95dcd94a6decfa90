"""The cost graphs of the models in models/, as a plan prices them."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.graph_formats import PublicProblem

STAGES = (2, 4, 8)


def model_graphs() -> Iterator[PublicProblem]:
    """One problem a model, on the meta device, at the sizes that its file has by default."""
    import torch

    import autopipe
    from models import NAMES, protocol

    for name in NAMES:
        file = protocol.load(name)
        torch.manual_seed(0)
        args, kwargs = file.example()
        plan = autopipe.plan(file.build(), 2, args, kwargs, progress=False)
        assert plan.cost_graph is not None
        yield PublicProblem(name, "model", plan.cost_graph, plan.hardware, STAGES)
