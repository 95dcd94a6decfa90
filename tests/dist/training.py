"""Cases for a crew: trainings over processes, against the same engine in one process."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import autopipe
from autopipe.pipeline import Pipeline
from models.protocol import Batch, load
from tests.plain_training import Step, assert_close, gradients_of, put_back, state_of


@cache
def split(name: str, n_stages: int, n_ranks: int) -> tuple[nn.Module, Pipeline, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    file = load(name)
    model = file.build()
    args, kwargs = file.example(2)
    return model, autopipe.split(model, n_stages, args, kwargs, n_ranks=n_ranks), state_of(model)


def step_of(engine: Any, file: Any) -> Step:
    def run(batch: Batch) -> tuple[torch.Tensor, Any]:
        judged = {} if batch.target is None else {"target": batch.target}
        out = engine.step(*batch.args, loss_fn=file.loss, return_output=True, **judged, **batch.kwargs)
        return out.loss, out.output

    return run


def train(engine: Any, model: nn.Module, file: Any, n_samples: int, n_steps: int) -> dict[str, Any]:
    """Train, and return what this process has of it."""
    own = {"params": list(engine.parameters())}  # a rank may own none, which torch takes only as a group
    optimizer = torch.optim.SGD([own], lr=0.05, momentum=0.9)
    step, losses, first = step_of(engine, file), [], None
    for index in range(n_steps):
        optimizer.zero_grad()
        loss, output = step(file.make_batch(n_samples, seed=index))
        if first is None:
            names = {fqn for fqn, _ in engine.named_parameters()}
            first = (output, {fqn: g for fqn, g in gradients_of(model).items() if fqn in names})
        losses.append((loss, engine.clip_grad_norm_(1e6)))
        optimizer.step()
    state = {name: value.clone() for name, value in engine.state_dict().items()}
    batch = file.make_batch(n_samples, seed=99)
    inference = engine.eval().forward(*batch.args, **batch.kwargs)
    engine.train()
    return {"losses": losses, "output": first[0], "gradients": first[1], "state": state, "forward": inference}


@cache
def in_one_process(
    name: str, n_stages: int, n_ranks: int, schedule: str, n_microbatches: int, n_samples: int, n_steps: int
) -> dict[str, Any]:
    model, pipe, initial = split(name, n_stages, n_ranks)
    put_back(model, initial)
    engine = pipe.engine(schedule=schedule, n_microbatches=n_microbatches, seed=7)
    return train(engine, model, load(name), n_samples, n_steps)


def prepare(cases: list[tuple[Any, ...]]) -> None:
    for case in cases:
        in_one_process(*case)


def equals_one_process(rank: int, case: tuple[Any, ...]) -> list[str]:
    """Compare; return what this rank trained."""
    name, n_stages, n_ranks, schedule, n_microbatches, n_samples, n_steps = case
    model, pipe, initial = split(name, n_stages, n_ranks)
    put_back(model, initial)
    options = {"schedule": schedule, "n_microbatches": n_microbatches, "seed": 7 if rank == 0 else 8}
    with pipe.engine(group=dist.group.WORLD, timeout_s=30, **options) as engine:
        found = train(engine, model, load(name), n_samples, n_steps)
    expected = in_one_process(*case)
    assert_close(found["losses"], expected["losses"])
    for part in ("gradients", "state"):
        assert_close(found[part], {name: expected[part][name] for name in found[part]})
    if (n_stages - 1) % n_ranks == rank:
        assert_close(found["output"], expected["output"])
        assert_close(found["forward"], expected["forward"])
    else:
        assert found["output"] is None
        assert found["forward"] is None
    return list(found["state"])
