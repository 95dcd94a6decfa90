"""A split model trains and predicts as the model itself: models/, 1 to 4 stages, both schedules.

The reference is the plain model in a loop over the same microbatches. Where random operations are on, no loop
can draw the numbers that the pieces draw, so there it is the same model in one stage, and one stage is held
against the plain model with the random operations off.

Forwards a split is bitwise equal. Backwards it is so up to the order of sums: a value that several stages
read, and a tied parameter, get one sum a stage; in one stage the order is the model's own.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from autopipe.pipeline import Pipeline
from models import NAMES
from models.protocol import Batch, ModelFile, load
from tests.captured_once import captured_once
from tests.plain_training import (
    Step,
    Training,
    assert_bitwise,
    assert_close,
    assert_same_training,
    gradients_of,
    plain_forward,
    plain_step,
    put_back,
    state_of,
    train,
)

SCHEDULES = ("gpipe", "1f1b")
N_STEPS = 10
N_MICROBATCHES = 4
RAGGED = 5  # samples in 4 microbatches: 2, 1, 1, 1


def random_sizes(name: str) -> dict[str, float]:
    """The fields of the model's Config that turn its random operations on, each turned off."""
    fields = dataclasses.fields(importlib.import_module(f"models.{name}").Config)
    return {field.name: 0.0 for field in fields if field.name in ("dropout", "noise")}


RANDOM = [name for name in NAMES if random_sizes(name)]


@dataclass(frozen=True)
class Case:
    """A model split into some stages; what a test changes in the model is put back before the next."""

    file: ModelFile
    model: nn.Module
    pipe: Pipeline
    initial: dict[str, torch.Tensor]

    @classmethod
    def of(cls, name: str, n_stages: int, **size: Any) -> Case:
        file, model = load(name), shared(name, tuple(size.items()))
        put_back(model, values_of(model))
        pipe = autopipe.split(model, n_stages, *file.example(2))
        return cls(file, model, pipe, state_of(model))

    def step(self, schedule: str, n_microbatches: int) -> Step:
        put_back(self.model, self.initial)
        engine = self.pipe.engine(schedule=schedule, n_microbatches=n_microbatches, seed=7)

        def run(batch: Batch) -> tuple[torch.Tensor, Any]:
            judged = {} if batch.target is None else {"target": batch.target}
            out = engine.step(
                *batch.args, loss_fn=self.file.loss, return_output=True, **judged, **batch.kwargs
            )
            return out.loss, out.output

        return run


def built(name: str, **size: Any) -> nn.Module:
    torch.manual_seed(0)
    return load(name).build(**size)


@cache
def shared(name: str, size: tuple[tuple[str, Any], ...]) -> nn.Module:
    """The model that all cases of these sizes split."""
    return built(name, **dict(size))


@cache
def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """What it was built with."""
    return state_of(model)


def quiet(file: ModelFile) -> nn.Module:
    """The model with its random operations off."""
    name = file.__name__.rpartition(".")[2]
    return built(name, **random_sizes(name))


@pytest.fixture(scope="module", autouse=True)
def _captured_once() -> Iterator[None]:
    with captured_once():
        yield


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """The model without randomness, split."""
    name, n_stages = request.param
    return Case.of(name, n_stages, **random_sizes(name))


@pytest.fixture(scope="module")
def random_case(request: pytest.FixtureRequest) -> tuple[str, Case]:
    """The model as it is by default, split; and its name."""
    name, n_stages = request.param
    return name, Case.of(name, n_stages)


def each(names: list[str], *counts: int) -> list[Any]:
    return [pytest.param((name, n), id=f"{name}-{n}") for name in names for n in counts]


all_cases = pytest.mark.parametrize("case", each(list(NAMES), 1, 2, 3, 4), indirect=True)
four_stages = pytest.mark.parametrize("case", each(list(NAMES), 4), indirect=True)
both_schedules = pytest.mark.parametrize("schedule", SCHEDULES)


@cache
def ten_plain_steps(file: ModelFile) -> Training:
    model = quiet(file)
    return train(model, plain_step(model, file, N_MICROBATCHES), ragged_batches(file, N_STEPS))


@cache
def three_steps_in_one_stage(name: str) -> Training:
    one = Case.of(name, 1)
    return train(one.model, one.step("1f1b", N_MICROBATCHES), ragged_batches(one.file, 3))


def ragged_batches(file: ModelFile, n: int) -> list[Batch]:
    return [file.make_batch(RAGGED, seed=seed) for seed in range(n)]


@all_cases
@both_schedules
def test_ten_steps_equal_the_plain_loop(case: Case, schedule: str) -> None:
    found = train(case.model, case.step(schedule, N_MICROBATCHES), ragged_batches(case.file, N_STEPS))
    assert_same_training(found, ten_plain_steps(case.file))


@all_cases
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_one_call_is_the_call_of_the_model(case: Case, training: bool) -> None:
    args, kwargs, target = case.file.make_batch(2, seed=1)
    runs = []
    for call in (case.model, case.pipe):
        put_back(case.model, case.initial)
        case.model.train(training)
        output = call(*args, **kwargs)
        case.file.loss(output, target).backward()
        runs.append((output, state_of(case.model), gradients_of(case.model)))
    (*expected, gradients), (*found, found_gradients) = runs
    assert type(found[0]) is type(expected[0])
    assert_bitwise(found, expected)
    (assert_bitwise if len(case.pipe) == 1 else assert_close)(found_gradients, gradients)


@all_cases
def test_inference_over_microbatches_is_bitwise_the_plain_loop(case: Case) -> None:
    put_back(case.model, case.initial)
    batch = case.file.make_batch(4, seed=2)
    engine = case.pipe.engine(n_microbatches=2).eval()
    expected = plain_forward(case.model, batch, 2)
    assert_bitwise(engine.forward(*batch.args, **batch.kwargs), expected)
    assert_bitwise(state_of(case.model), case.initial)


@all_cases
def test_stages_keep_the_names_and_the_tensors_of_the_model(case: Case) -> None:
    assert list(case.pipe.state_dict()) == list(quiet(case.file).state_dict())
    own = dict(case.model.named_parameters(remove_duplicate=False))
    own |= dict(case.model.named_buffers(remove_duplicate=False))
    held = [
        pair
        for stage in case.pipe
        for pair in [*stage.module.named_parameters(), *stage.module.named_buffers()]
    ]
    assert all(own[fqn] is tensor for fqn, tensor in held)
    assert {id(tensor) for _, tensor in held} >= {id(parameter) for parameter in case.model.parameters()}


@four_stages
@both_schedules
def test_fewer_microbatches_than_stages(case: Case, schedule: str) -> None:
    batch = case.file.make_batch(4, seed=3)
    found = train(case.model, case.step(schedule, 2), [batch])
    put_back(case.model, case.initial)
    assert_same_training(found, train(case.model, plain_step(case.model, case.file, 2), [batch]))


@four_stages
@both_schedules
def test_a_batch_of_one_is_one_microbatch(case: Case, schedule: str) -> None:
    batch = case.file.make_batch(1, seed=4)
    found = train(case.model, case.step(schedule, N_MICROBATCHES), [batch])
    put_back(case.model, case.initial)
    expected = train(case.model, plain_step(case.model, case.file, 1), [batch])
    assert_bitwise((found.losses, found.output), (expected.losses, expected.output))
    assert_same_training(found, expected)


@pytest.mark.parametrize("random_case", each(RANDOM, 2, 3, 4), indirect=True)
@both_schedules
def test_random_numbers_depend_on_neither_stages_nor_schedule(
    random_case: tuple[str, Case], schedule: str
) -> None:
    name, case = random_case
    found = train(case.model, case.step(schedule, N_MICROBATCHES), ragged_batches(case.file, 3))
    assert_same_training(found, three_steps_in_one_stage(name))


@pytest.mark.parametrize("random_case", each(RANDOM, 1), indirect=True)
def test_in_one_stage_the_users_stream_gives_the_numbers_of_the_model(random_case: tuple[str, Case]) -> None:
    _, case = random_case
    args, kwargs, target = case.file.make_batch(2, seed=5)
    runs = []
    for call in (case.model, case.pipe):
        put_back(case.model, case.initial)
        torch.manual_seed(11)
        output = call(*args, **kwargs)
        case.file.loss(output, target).backward()
        runs.append((output, gradients_of(case.model), state_of(case.model), torch.get_rng_state()))
    assert_bitwise(runs[1], runs[0])


def test_random_operations_are_on_where_they_are_said_to_be() -> None:
    """Else two trainings without dropout would be compared, and agree."""
    for name in RANDOM:
        model, (args, kwargs) = built(name), load(name).example(2)
        with torch.no_grad():
            one, two = (model(*args, **kwargs) for _ in range(2))
        with pytest.raises(AssertionError, match="relative errors beyond"):
            assert_close(one, two)
