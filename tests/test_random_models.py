"""Random models, split into random stages, train as they do by themselves."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import autopipe
from autopipe.pipeline import Pipeline
from tests.plain_training import assert_close, gradients_of
from tests.random_models import N_CLASSES, WIDTH, RandomModel, loss_fn

N_STEPS = 2


@dataclass(frozen=True)
class Case:
    """A model, how it is split, and what it is trained on."""

    model: RandomModel
    pipe: Pipeline
    n_microbatches: int
    args: tuple[Tensor, ...]
    kwargs: dict[str, Any]
    target: Tensor

    @classmethod
    def of(cls, seed: int, *, drops: bool = False) -> Case:
        torch.manual_seed(seed)
        choose = random.Random(seed)
        model = RandomModel(seed, drops=drops).train(drops or choose.random() < 0.8)
        n_microbatches = choose.randint(1, 6)
        n_samples = choose.randint(2 * n_microbatches, 14)
        n_stages = choose.randint(2, 4)
        pipe = autopipe.split(
            model,
            n_stages,
            given(3, seed),
            {"scale": 1.5},
            n_ranks=choose.choice([n_stages, n_stages, 2]),
            n_microbatches=n_microbatches,
            schedule=choose.choice(["1f1b", "gpipe"]),
        )
        target = torch.randint(0, N_CLASSES, (n_samples,))
        return cls(model, pipe, n_microbatches, given(n_samples, seed), {"scale": 1.5}, target)


def given(n_samples: int, seed: int) -> tuple[Tensor, ...]:
    """Two or three arguments, the last a mask."""
    both = torch.randn(n_samples, WIDTH), torch.randint(0, N_CLASSES, (n_samples,))
    return (*both, torch.rand(n_samples, 1) + 0.5) if seed % 2 else both


def train(pipe: Pipeline, case: Case) -> list[Tensor]:
    with pipe.engine(seed=3) as engine:
        steps = [
            engine.step(*case.args, target=case.target, loss_fn=loss_fn, **case.kwargs)
            for _ in range(N_STEPS)
        ]
    return [step.loss for step in steps]


def train_plain(model: RandomModel, case: Case) -> list[Tensor]:
    losses = []
    for _ in range(N_STEPS):
        tensors = (case.target, *case.args)
        parts = zip(*(tensor.tensor_split(case.n_microbatches) for tensor in tensors), strict=True)
        total = torch.zeros(())
        for target, *args in parts:
            loss = loss_fn(model(*args, **case.kwargs), target) * (len(target) / len(case.target))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        losses.append(total)
    return losses


def buffers_of(model: RandomModel) -> dict[str, Tensor]:
    return {fqn: buffer.detach().clone() for fqn, buffer in model.named_buffers()}


@pytest.mark.parametrize("seed", range(16))
def test_a_random_model_trains_as_the_plain_loop(seed: int) -> None:
    case = Case.of(seed)
    plain = copy.deepcopy(case.model)
    assert_close(train(case.pipe, case), train_plain(plain, case))
    assert_close(gradients_of(case.model), gradients_of(plain))
    assert_close(buffers_of(case.model), buffers_of(plain))
    with torch.no_grad():
        assert_close(case.pipe(*case.args, **case.kwargs), plain(*case.args, **case.kwargs))


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_random_model_with_random_operations_trains_as_in_one_stage(seed: int) -> None:
    case = Case.of(seed, drops=True)
    whole = copy.deepcopy(case.model)
    single = autopipe.split(whole, 1, given(3, seed), case.kwargs, n_microbatches=case.n_microbatches)
    assert_close(train(case.pipe, case), train(single, case))
    assert_close(gradients_of(case.model), gradients_of(whole))
    assert_close(buffers_of(case.model), buffers_of(whole))
