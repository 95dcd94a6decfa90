"""The ten models, captured and cut by hand, give the numbers of the model."""

from __future__ import annotations

import pytest
import torch

from models import NAMES
from models.protocol import load
from tests.trace.agreement import assert_agrees, opaque_modules


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_model_agrees_in_one_stage_and_in_three(name: str, training: bool) -> None:
    file = load(name)
    model = file.build().train(training)
    args, kwargs = file.example(4)
    n_stages = (1,) if training and name in ("gpt", "tied_lm", "mixture_of_experts") else (1, 3)
    traced = assert_agrees(model, args, kwargs, n_stages=n_stages)
    assert opaque_modules(traced) == {}


@pytest.mark.parametrize("name", NAMES)
def test_batch_stays_symbolic(name: str) -> None:
    file = load(name)
    model = file.build()
    traced = assert_agrees(model, *file.example(4), n_stages=(1,))
    _, kwargs = file.example(6)
    args, kwargs = file.example(6)
    assert_agrees(model, args, kwargs, n_stages=(1,), traced=traced)
    assert traced.inputs[0].spec.shape[0] == "B"
    assert all(leaf.batch_dim == 0 for leaf in traced.inputs)


def test_capture_leaves_the_random_stream_alone() -> None:
    file = load("gpt")
    model = file.build()
    before = torch.get_rng_state()
    assert_agrees(model, *file.example(2), n_stages=(1,))
    torch.set_rng_state(before)
