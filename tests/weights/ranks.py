"""Cases for a crew: each rank gives values to its own stage of a meta model, and trains it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_model
from torch import nn
from torch.utils import _pytree as pytree

import autopipe
from autopipe.pipeline import Pipeline
from tests.plain_training import assert_close
from tests.shallow import load

SEED = 11
CASES = [
    ("tied_lm", "checkpoint"),  # a tensor that both ranks have
    ("tied_lm", "build"),
    ("resnet", "checkpoint"),  # buffers that the forward writes
    ("resnet", "init"),
]


def split_on_meta(name: str) -> tuple[nn.Module, Pipeline]:
    file = load(name)
    with torch.device("meta"):
        model = file.build()
    example = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), file.example(2))
    return model, autopipe.split(model, 2, *example, n_microbatches=2)


def give(stage: autopipe.Stage, name: str, way: str, folder: Path) -> None:
    ways: dict[str, dict[str, Any]] = {
        "checkpoint": {"weights": folder / f"{name}.safetensors", "build": load(name).build},
        "build": {"build": load(name).build, "seed": SEED},
        "init": {"seed": SEED},
    }
    stage.materialize("cpu", **ways[way])


def trained(name: str, pipe: Pipeline, **options: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Take one step; return its loss and the gradients of this process."""
    file = load(name)
    batch = file.make_batch(4, seed=0)
    judged = {} if batch.target is None else {"target": batch.target}
    with pipe.engine(seed=3, **options) as engine:
        out = engine.step(*batch.args, loss_fn=file.loss, **judged, **batch.kwargs)
        parts = engine.named_parameters()
        return out.loss, {fqn: p.grad.clone() for fqn, p in parts if p.grad is not None}


@cache
def unsplit(name: str, way: str, folder: Path) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The whole model in one stage: as its constructor makes it, or given its values there."""
    file = load(name)
    torch.manual_seed(SEED)
    model = file.build()
    if way == "checkpoint":
        save_model(model, str(folder / f"{name}.safetensors"))
    if way == "init":
        model, pipe = split_on_meta(name)
        for stage in pipe:
            give(stage, name, way, folder)
    args, kwargs = file.example(2)
    return trained(name, autopipe.split(model, 1, args, kwargs, n_microbatches=2))


def prepare(folder: str) -> None:
    for name, way in CASES:
        unsplit(name, way, Path(folder))


def gives_its_own(rank: int, name: str, way: str, folder: str) -> list[str]:
    """Compare with the unsplit model; return what this rank trained."""
    model, pipe = split_on_meta(name)
    give(pipe[rank], name, way, Path(folder))
    own = {id(tensor) for tensor in (*pipe[rank].module.parameters(), *pipe[rank].module.buffers())}
    loss, gradients = trained(name, pipe, group=dist.group.WORLD, timeout_s=30)
    for tensor in (*model.parameters(), *model.buffers()):
        assert tensor.is_meta == (id(tensor) not in own)
    expected = unsplit(name, way, Path(folder))
    assert_close(loss, expected[0])
    assert_close(gradients, {fqn: expected[1][fqn] for fqn in gradients})
    return list(gradients)
