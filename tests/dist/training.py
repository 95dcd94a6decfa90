"""Cases for a crew: trainings over processes, against the same engine in one process."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

import autopipe
from autopipe.cost import hardware
from autopipe.errors import EngineError
from autopipe.ir.hardware import Link
from autopipe.ir.structure import Structure
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
    inference = None
    if n_steps > 1:  # inference is another capture, which takes seconds for some
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
    assert found["state"].keys() >= {name for name, _ in pipe_part(pipe, n_ranks, rank)}
    return list(found["state"])


def pipe_part(pipe: Pipeline, n_ranks: int, rank: int) -> list[tuple[str, torch.Tensor]]:
    """What the stages of a rank use and no earlier stage does."""
    earlier: set[int] = set()
    found = []
    for stage in pipe:
        held = [(fqn, p) for fqn, p in stage.module.named_parameters() if id(p) not in earlier]
        earlier |= {id(p) for _, p in held}
        found += held if stage.index % n_ranks == rank else []
    return found


def saves_and_loads(rank: int, folder: str) -> None:
    """Save from 3 stages on 2 ranks; load into 2 stages on 2 ranks, and into the unsplit model."""
    model, pipe, initial = split("tied_lm", 3, 2)
    file = load("tied_lm")
    put_back(model, initial)
    with pipe.engine(group=dist.group.WORLD, timeout_s=30, n_microbatches=4, seed=3) as engine:
        train(engine, model, file, 5, 1)
        dcp.save(engine.state_dict(), checkpoint_id=folder)
        state = engine.state_dict()
        expected = step_of(engine, file)(file.make_batch(5, seed=50))[0]

    torch.manual_seed(9)
    whole = file.build()
    loaded = dict(whole.state_dict())
    dcp.load(loaded, checkpoint_id=folder)
    whole.load_state_dict(loaded)
    for name, tensor in state.items():
        if not name.startswith("_autopipe"):
            torch.testing.assert_close(whole.state_dict()[name], tensor, rtol=0, atol=0)

    torch.manual_seed(10 + rank)
    other = file.build()
    args, kwargs = file.example(2)
    fewer = autopipe.split(other, 2, args, kwargs)
    with fewer.engine(group=dist.group.WORLD, timeout_s=30, n_microbatches=4, seed=4) as engine:
        state = engine.state_dict()
        dcp.load(state, checkpoint_id=folder)
        engine.load_state_dict(state)
        found = step_of(engine, file)(file.make_batch(5, seed=50))[0]
    assert_close(found, expected)


def refuses_stale_weights(rank: int) -> None:
    del rank
    model, pipe, initial = split("tied_lm", 3, 2)
    engine = pipe.engine(group=dist.group.WORLD, timeout_s=30)
    with pytest.raises(EngineError, match="only a part of the model's weights"):
        pipe.state_dict()
    args, kwargs = load("tied_lm").example(2)
    with pytest.raises(EngineError, match="only a part") as refused:
        pipe(*args, **kwargs)
    assert "engine.forward" in refused.value.remedy
    with pytest.raises(EngineError, match="only a part"):
        pipe.verify()
    engine.close()
    with pytest.raises(EngineError, match="only a part"):
        pipe.state_dict()
    pipe.load_state_dict(initial, strict=False)
    assert pipe.state_dict().keys() == model.state_dict().keys()


def leaves_out_tensors(rank: int) -> int:
    """Each rank gives what its own stages read, and the last one alone the target."""
    model, pipe, initial = split("recommender", 4, 2)
    file = load("recommender")
    batch = file.make_batch(7, seed=0)
    reads = {a.name for stage in pipe if stage.index % 2 == rank for a in stage._staged.arguments}
    inputs = pipe._captures.first.traced.inputs
    structure, tensors = Structure.of((batch.args, batch.kwargs))
    paths = {leaf.path: leaf.name for leaf in inputs}
    assert set(structure.paths) == set(paths)
    given = [t if paths[path] in reads else None for path, t in zip(structure.paths, tensors, strict=True)]
    args, kwargs = structure.fill(given)
    losses = []
    for mine in ((batch.args, batch.kwargs, batch.target), (args, kwargs, batch.target if rank else None)):
        put_back(model, initial)
        with pipe.engine(group=dist.group.WORLD, timeout_s=30, n_microbatches=4, seed=7) as engine:
            out = engine.step(*mine[0], **mine[1], target=mine[2], loss_fn=file.loss)
        losses.append(out.loss)
    assert losses[0].equal(losses[1])
    return sum(tensor is None for tensor in given)


def runs_forwards_again(rank: int) -> bool:
    """Under a limit stage 0 recomputes; the gradients are those of one process that keeps everything."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Dropout(0.3)) for _ in range(4)]
    model, x = nn.Sequential(*blocks), torch.randn(8, 32)
    state = state_of(model)
    loose = autopipe.split(model, 2, (x.repeat(8, 1),), hardware="a100")
    limit = max(stage.memory_bytes for stage in loose.plan.partition.stages) * 3 // 4
    tight = autopipe.split(model, 2, (x.repeat(8, 1),), hardware="a100", memory_limit=limit)
    assert tight.plan.partition.running_twice == (0,), rank
    with loose.engine(seed=0, n_microbatches=4) as engine:
        engine.step(x, loss_fn=lambda out: out.square().mean())
    expected, statistics = gradients_of(model), dict(model.named_buffers())
    expected_statistics = {name: value.clone() for name, value in statistics.items()}
    put_back(model, state)
    model.zero_grad()
    with tight.engine(group=dist.group.WORLD, seed=0, n_microbatches=4) as engine:
        engine.step(x, loss_fn=lambda out: out.square().mean())
        mine = {fqn for fqn, _ in engine.named_parameters()}
        held = {name: value for name, value in engine.state_dict().items() if name in statistics}
    assert_close({fqn: gradients_of(model)[fqn] for fqn in mine}, {fqn: expected[fqn] for fqn in mine})
    assert_close(held, {name: expected_statistics[name] for name in held})
    return bool(mine)


def computes_tables_where_they_are_read(rank: int) -> bool:
    """Over a slow link rotary tables run on both ranks, buffers included, and nothing else changes."""
    file = load("llama_like")
    torch.manual_seed(0)
    model = file.build(n_layers=2)
    args, kwargs = file.example(2)
    slow = replace(hardware("h100"), links=(Link("string", 1e6, 1.0, "a test"),))
    pipe = autopipe.split(model, 2, args, kwargs, hardware=slow, pin={"layers.0": 0, "layers.1": 1})
    assert "rotary" in pipe.plan.partition.recomputed, rank
    assert [each.value for each in pipe.plan.transfers if not each.grad_nbytes] == []
    batch, found = file.make_batch(4), []
    for group in (None, dist.group.WORLD):
        with pipe.engine(group=group, n_microbatches=2, seed=0) as engine:
            loss = engine.step(*batch.args, target=batch.target, loss_fn=file.loss, **batch.kwargs).loss
            mine = {fqn for fqn, _ in engine.named_parameters()}
        found.append((loss, gradients_of(model)))
        model.zero_grad()
    assert_close(found[1][0], found[0][0])
    assert_close({fqn: found[1][1][fqn] for fqn in mine}, {fqn: found[0][1][fqn] for fqn in mine})
    return bool(mine)
