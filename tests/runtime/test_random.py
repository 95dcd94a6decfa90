"""Random numbers depend on seed, step, microbatch and node; not on stages, schedule or the user's stream."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopipe.runtime import Engine
from tests.runtime.training import assert_same, engine_of, gradients


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.layers[0](x))
        x = self.drop(self.layers[1](x)) + torch.randn_like(x)
        return F.dropout(self.layers[2](x), 0.5, self.training)


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def engine_for(model: nn.Module, n_stages: int, **options: object) -> Engine:
    return engine_of(model, (X,), n_stages=n_stages, n_microbatches=2, **options)


def train(engine: Engine, n_steps: int = 2) -> list[float]:
    return [float(engine.step(X, loss_fn=lambda out: out.square().mean()).loss) for _ in range(n_steps)]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_masks_are_those_of_one_stage(schedule: str):
    torch.manual_seed(0)
    one, three = Noisy(), Noisy()
    three.load_state_dict(one.state_dict())
    expected = train(engine_for(one, 1, seed=3))
    torch.manual_seed(99)
    assert train(engine_for(three, 3, seed=3, schedule=schedule)) == expected
    assert_same(gradients(three), gradients(one), rtol=1e-5, atol=1e-6)


class DrawsElsewhere(nn.Module):
    """Scales by Python's random numbers and numpy's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * random.uniform(0.5, 2) * float(np.random.rand() + 0.5)


class Scaled(nn.Module):
    """Likewise, and has no modules inside."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


@pytest.mark.parametrize("recompute", [(), (0, 1, 2)])
def test_what_draws_from_python_or_numpy_draws_as_in_one_stage(recompute: tuple[int, ...]):
    torch.manual_seed(0)
    one = nn.Sequential(DrawsElsewhere(), Scaled(), DrawsElsewhere(), Scaled())
    three = copy.deepcopy(one)
    before = random.getstate(), np.random.get_state()[1].tolist()
    expected = train(engine_for(one, 1, seed=3))
    assert train(engine_for(three, 3, seed=3, recompute=recompute)) == expected
    assert expected[0] != expected[1]
    assert_same(gradients(three), gradients(one), rtol=1e-5, atol=1e-6)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_seed_step_and_microbatch_all_change_the_numbers():
    torch.manual_seed(0)
    model = Noisy()
    first = train(engine_for(model, 2, seed=3))
    assert first[0] != first[1]
    assert train(engine_for(model, 2, seed=4))[0] != first[0]
    same = torch.ones(2, 8)
    out = engine_of(model, (same,), n_stages=2, n_microbatches=2, seed=3).forward(same)
    assert not torch.equal(out[0], out[1])


def test_the_users_stream_goes_on_as_if_nothing_had_happened():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    engine = engine_for(Noisy(), 2, seed=3)
    torch.manual_seed(7)
    train(engine)
    engine.forward(X)
    assert torch.equal(torch.rand(3), expected)


def test_without_a_seed_the_users_own_is_taken():
    model = Noisy()
    torch.manual_seed(11)
    first = train(engine_for(model, 2))
    torch.manual_seed(11)
    assert train(engine_for(model, 3)) == first
    torch.manual_seed(12)
    assert train(engine_for(model, 3)) != first


def test_a_loss_that_draws_is_keyed_too():
    model = Noisy()
    losses = []
    for n_stages in (1, 3):
        engine = engine_for(model, n_stages, seed=1)
        out = engine.step(X, loss_fn=lambda out: (out * torch.rand_like(out)).square().mean())
        losses.append(float(out.loss))
    assert losses[0] == losses[1]


def test_state_continues_the_random_numbers():
    torch.manual_seed(0)
    model = Noisy()
    engine = engine_for(model, 2, seed=5)
    train(engine, 1)
    state = copy.deepcopy(engine.state_dict())
    rest = train(engine, 2)
    again = engine_for(Noisy(), 3, seed=99)
    again.load_state_dict(state)
    assert train(again, 2) == rest
    assert state.keys() - model.state_dict().keys() == {"_autopipe.seed", "_autopipe.step"}
    again.load_state_dict(model.state_dict())
    assert int(again.state_dict()["_autopipe.step"]) == 3
