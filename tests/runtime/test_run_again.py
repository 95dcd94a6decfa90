"""A stage that recomputes trains exactly as one that keeps everything, and keeps its inputs only."""

from __future__ import annotations

import copy
import weakref
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import EngineError
from autopipe.runtime import Engine
from tests.runtime import test_old_values as writing
from tests.runtime.training import assert_same, engine_of, gradients

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
ALL = {"rtol": 0, "atol": 0}


class Net(nn.Module):
    """Dropout, statistics, a residual, an in-place operation and a branch that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(4))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            layer(x).exp()
            x = x + self.drop(norm(layer(x)).relu_())
        return x


def judge(out: Tensor) -> Tensor:
    return out.square().mean()


def trained(n_stages: int, recompute: tuple[int, ...], schedule: str = "1f1b", n_steps: int = 2):
    torch.manual_seed(0)
    model = Net()
    engine = engine_of(
        model, (X,), n_stages=n_stages, n_microbatches=4, seed=1, schedule=schedule, recompute=recompute
    )
    losses = [float(engine.step(X, loss_fn=judge).loss) for _ in range(n_steps)]
    return model, losses


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize("recompute", [(0,), (1, 2), (0, 1, 2)])
def test_gradients_and_statistics_are_those_of_one_stage_that_keeps_all(schedule, recompute):
    whole, expected = trained(1, ())
    model, losses = trained(3, recompute, schedule)
    assert losses == expected
    assert_same(gradients(model), gradients(whole), **ALL)
    assert_same(dict(model.named_buffers()), dict(whole.named_buffers()), **ALL)
    assert int(model.norms[0].num_batches_tracked) == 2 * 4


@pytest.mark.parametrize(
    ("how", "is_leaf"),
    [*((how, leaf) for how in writing.WAYS for leaf in (True, False)), ("of_a_plain_tensor", False)],
)
def test_what_a_forward_writes_is_written_once(how, is_leaf):
    model, engine = writing.split(how, is_leaf)
    plain = copy.deepcopy(model)
    plain.average.row = plain.average.table[0]
    engine._recompute = frozenset({0, 1, 2})
    for part in X.tensor_split(4):
        (writing.judge(plain(part)) / 4).backward()
    engine.step(X, loss_fn=writing.judge)
    assert_same(gradients(model), gradients(plain))
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


class Watched(nn.Module):
    """Notes the tensors that it makes, as long as anybody keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        inner = x.exp()
        self.made.append(weakref.ref(inner))
        return inner.sin()


@pytest.mark.parametrize("recompute", [(), (0,)])
def test_only_inputs_are_kept_between_the_two_forwards(recompute):
    watched = Watched()
    model = nn.Sequential(nn.Linear(4, 4), watched, nn.Linear(4, 4), nn.Linear(4, 4))
    stages = {"0": 0, "1": 0, "2": 1, "3": 1}
    engine = engine_of(
        model, (X,), n_stages=2, stages=stages, n_microbatches=4, schedule="gpipe", recompute=recompute
    )
    kept = []

    def look(out: Tensor) -> Tensor:
        kept.append(sum(each() is not None for each in watched.made))
        return judge(out)

    engine.step(X, loss_fn=look)
    assert max(kept) == (0 if recompute else 4)


def test_the_loss_is_asked_once_a_microbatch_and_inference_runs_once():
    model = Net()
    engine = engine_of(model, (X,), n_stages=2, n_microbatches=4, recompute=(0, 1))
    calls = count()
    engine.step(X, loss_fn=lambda out: judge(out) + 0 * next(calls))
    assert next(calls) == 4
    runs = []
    model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    fresh: Engine = engine_of(model, (X,), n_stages=2, n_microbatches=4, recompute=(0, 1))
    runs.clear()
    fresh.forward(X)
    assert len(runs) == 8


def test_autocast_holds_in_the_second_forward_too():
    def train(recompute):
        torch.manual_seed(0)
        model = Net()
        engine = engine_of(model, (X,), n_stages=2, n_microbatches=2, seed=1, recompute=recompute)
        with torch.autocast("cpu", torch.bfloat16):
            engine.step(X, loss_fn=judge)
        return gradients(model)

    assert_same(train((0, 1)), train(()), **ALL)


class Fickle(nn.Module):
    """Keeps more at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for _ in range(self.calls):
            x = x.exp()
        return x


def test_a_stage_that_goes_another_way_the_second_time_says_so():
    model = nn.Sequential(nn.Linear(4, 4), Fickle(), nn.Linear(4, 4))
    engine = engine_of(model, (X,), n_stages=2, n_microbatches=1, recompute=(0, 1))
    with pytest.raises(EngineError, match="did not compute the same again"):
        engine.step(X, loss_fn=judge)
