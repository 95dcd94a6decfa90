"""Every model file keeps the protocol, and its model can be trained."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from models import NAMES
from models.protocol import ModelFile, load

every_model = pytest.mark.parametrize("name", NAMES)


def fresh(name: str) -> tuple[ModelFile, nn.Module]:
    torch.manual_seed(0)
    file = load(name)
    return file, file.build()


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def rows(tree: Any, chosen: slice) -> Any:
    return pytree.tree_map(lambda leaf: leaf[chosen] if isinstance(leaf, torch.Tensor) else leaf, tree)


def test_ten_models_are_listed_once() -> None:
    assert len(NAMES) == len(set(NAMES)) == 10


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no model is called 'bert'\n  Try: one of gpt, llama_like"):
        load("bert")


@every_model
def test_default_model_is_small_and_in_train_mode(name: str) -> None:
    _, model = fresh(name)
    assert model.training
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_000_000


@every_model
def test_model_runs_in_train_and_eval(name: str) -> None:
    file, model = fresh(name)
    args, kwargs, target = file.make_batch(3)
    for training in (True, False):
        loss = file.loss(model.train(training)(*args, **kwargs), target)
        assert loss.shape == ()
        assert torch.isfinite(loss)


@every_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    file, model = fresh(name)
    args, kwargs, target = file.make_batch(4)
    file.loss(model(*args, **kwargs), target).backward()
    for fqn, parameter in model.named_parameters():
        assert parameter.grad is not None, fqn
        assert torch.isfinite(parameter.grad).all(), fqn
        assert parameter.grad.any(), f"{fqn} has a gradient of zeros"


@every_model
def test_loss_falls_over_ten_steps(name: str) -> None:
    file, model = fresh(name)
    args, kwargs, target = file.make_batch(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = file.loss(model(*args, **kwargs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@every_model
def test_equal_seeds_draw_equal_numbers_and_leave_the_generator_alone(name: str) -> None:
    file = load(name)
    state = torch.get_rng_state()
    first, again, other = file.make_batch(3, seed=7), file.make_batch(3, seed=7), file.make_batch(3, seed=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(tensors(tuple(first)), tensors(tuple(again)), strict=True))
    assert any(
        not torch.equal(a, b) for a, b in zip(tensors(first.args), tensors(other.args), strict=True)
    ) or any(not torch.equal(a, b) for a, b in zip(tensors(first.kwargs), tensors(other.kwargs), strict=True))


@every_model
def test_example_is_the_batch_without_its_target(name: str) -> None:
    file = load(name)
    args, kwargs, _ = file.make_batch(5, seed=3)
    example_args, example_kwargs = file.example(batch=5, seed=3)
    assert list(example_kwargs) == list(kwargs)
    expected, found = tensors((args, kwargs)), tensors((example_args, example_kwargs))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@every_model
def test_batch_is_the_first_dimension_of_every_input_and_target(name: str) -> None:
    assert {tensor.shape[0] for tensor in tensors(tuple(load(name).make_batch(5)))} == {5}


@every_model
def test_samples_do_not_depend_on_one_another_in_eval(name: str) -> None:
    file, model = fresh(name)
    model.eval()
    args, kwargs, _ = file.make_batch(5)
    whole = tensors(model(*args, **kwargs))
    parts = [
        tensors(model(*rows(args, chosen), **rows(kwargs, chosen))) for chosen in (slice(0, 2), slice(2, 5))
    ]
    for index, expected in enumerate(whole):
        if expected.dim():  # a scalar is a loss, which is no row of anything
            joined = torch.cat([part[index] for part in parts])
            torch.testing.assert_close(joined, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("mixture_of_experts", "encoder_decoder")]
)
def test_loss_of_a_batch_is_the_mean_of_its_microbatches_weighed_by_samples(name: str) -> None:
    """Excepted: a balance loss is no mean over samples, and sequences of labels have lengths that differ."""
    file, model = fresh(name)
    model.eval()
    args, kwargs, target = file.make_batch(5)
    weighed = [
        file.loss(model(*rows(args, chosen), **rows(kwargs, chosen)), rows(target, chosen)) * share
        for chosen, share in ((slice(0, 2), 2 / 5), (slice(2, 5), 3 / 5))
    ]
    expected = file.loss(model(*args, **kwargs), target)
    torch.testing.assert_close(torch.stack(weighed).sum(), expected, rtol=1e-4, atol=1e-5)


@every_model
def test_a_single_sample_trains(name: str) -> None:
    file, model = fresh(name)
    args, kwargs, target = file.make_batch(1)
    file.loss(model(*args, **kwargs), target).backward()


@pytest.mark.parametrize("name", [*NAMES, "protocol"])
def test_docstring_examples_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"models.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_sizes_fit_one_another() -> None:
    for name, size in {
        "gpt": {"vocab": 50, "context": 8},
        "unet": {"image": 8},
        "lstm": {"n_layers": 2},
    }.items():
        file = load(name)
        args, kwargs, target = file.make_batch(2, **size)
        file.loss(file.build(**size)(*args, **kwargs), target).backward()
