"""A limit that no split fits as it is: stages run their forwards again, and train as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.cost import hardware
from tests.runtime.training import assert_same, gradients

X = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
LIMIT = 130_000
CHOICES = {"hardware": "a100", "n_microbatches": 8, "memory_limit": LIMIT}


def model() -> nn.Module:
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.3)) for _ in range(6)
    ]
    return nn.Sequential(*blocks)


def judge(out: Tensor) -> Tensor:
    return out.square().mean()


@pytest.fixture(scope="module")
def pipe() -> autopipe.Pipeline:
    return autopipe.split(model(), 3, (X[:2].repeat(32, 1),), **CHOICES)


def test_no_stage_exceeds_the_limit_and_none_would_fit_otherwise(pipe):
    stages = pipe.plan.partition.stages
    assert max(stage.memory_bytes for stage in stages) <= LIMIT
    again = pipe.plan.partition.running_twice
    assert again
    graph = pipe.cost_graph
    options = {"hardware": hardware("a100"), "in_flight": [stage.in_flight for stage in stages]}
    with pytest.raises(autopipe.InfeasibleError):
        autopipe.partition.solve(graph, 3, memory_limit_bytes=LIMIT, **options)
    for index in again:
        members = pipe.plan.partition.members(index)
        forward = sum(graph.node(name).fwd_ms for name in members)
        backward = sum(graph.node(name).bwd_ms for name in members)
        assert stages[index].bwd_ms == pytest.approx(forward + backward)


def test_it_trains_as_one_stage_does_with_dropout_and_statistics(pipe):
    whole = autopipe.split(model(), 1, (X[:2].repeat(32, 1),))
    losses = []
    for each in (pipe, whole):
        engine = each.engine(n_microbatches=8, seed=3)
        losses.append([float(engine.step(X, loss_fn=judge).loss) for _ in range(2)])
    assert losses[0] == losses[1]
    assert_same(gradients(pipe.model), gradients(whole.model), rtol=0, atol=0)
    buffers = dict(pipe.model.named_buffers()), dict(whole.model.named_buffers())
    assert_same(*buffers, rtol=0, atol=0)


def test_the_summary_says_which_stages_and_the_file_keeps_it(pipe, tmp_path):
    again = pipe.plan.partition.running_twice
    which = ", ".join(map(str, again))
    assert f"to fit, stage{'s' * (len(again) > 1)} {which} keep" in pipe.summary()
    path = tmp_path / "plan.json"
    pipe.plan.save(path)
    loaded = autopipe.Plan.load(path)
    assert not pipe.plan.diff(loaded)
    assert loaded.partition.running_twice == again
    again_split = autopipe.split(model(), 3, (X[:2].repeat(32, 1),), plan=loaded)
    assert again_split.engine()._recompute == frozenset(again)


def test_the_split_is_verified_as_it_will_run(pipe):
    pipe.verify().raise_if_different()


def test_devices_are_laid_out_with_recompute_where_nothing_else_fits():
    plan = autopipe.plan(
        model(), 3, (X[:2].repeat(32, 1),), n_devices=3, n_microbatches=8, hardware="a100", memory_limit=LIMIT
    )
    assert plan.partition.running_twice
    assert plan.alternatives.best.n_recomputed == len(plan.partition.running_twice)
