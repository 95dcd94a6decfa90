"""The reference: the plain model in a loop over the microbatches, and what a training leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from models.protocol import Batch, ModelFile

Step = Callable[[Batch], tuple[torch.Tensor, Any]]  # one forward and backward: the loss and the output


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def microbatches_of(batch: Batch, n: int) -> list[Batch]:
    """Cut along the first dimension, as ``tensor_split`` does; at most one microbatch a sample."""
    leaves, tree = pytree.tree_flatten(tuple(batch))
    n_samples = next(len(leaf) for leaf in leaves if is_tensor(leaf))
    n = min(n, n_samples)
    parts = [leaf.tensor_split(n) if is_tensor(leaf) else [leaf] * n for leaf in leaves]
    return [Batch(*pytree.tree_unflatten(list(part), tree)) for part in zip(*parts, strict=True)]


def n_samples_of(batch: Batch) -> int:
    return next(len(leaf) for leaf in pytree.tree_leaves(tuple(batch)) if is_tensor(leaf))


def merged(outputs: Sequence[Any], weights: Sequence[float]) -> Any:
    """Put outputs together: along the batch; floating scalars by the weights; of the rest, the last."""
    columns = list(zip(*(pytree.tree_leaves(output) for output in outputs), strict=True))
    leaves = []
    for column in columns:
        if not is_tensor(column[0]):
            leaves.append(column[-1])
        elif column[0].dim():
            leaves.append(torch.cat(column))
        else:
            leaves.append(sum(value * weight for value, weight in zip(column, weights, strict=True)))
    return pytree.tree_unflatten(leaves, pytree.tree_structure(outputs[0]))


def plain_forward(model: nn.Module, batch: Batch, n_microbatches: int) -> Any:
    parts = microbatches_of(batch, n_microbatches)
    weights = [n_samples_of(part) / n_samples_of(batch) for part in parts]
    with torch.no_grad():
        return merged([model(*part.args, **part.kwargs) for part in parts], weights)


def plain_step(model: nn.Module, file: ModelFile, n_microbatches: int) -> Step:
    def step(batch: Batch) -> tuple[torch.Tensor, Any]:
        parts = microbatches_of(batch, n_microbatches)
        weights = [n_samples_of(part) / n_samples_of(batch) for part in parts]
        losses, outputs = [], []
        for part, weight in zip(parts, weights, strict=True):
            output = model(*part.args, **part.kwargs)
            loss = file.loss(output, part.target) * weight
            loss.backward()
            losses.append(loss.detach())
            outputs.append(pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, output))
        return torch.stack(losses).sum(), merged(outputs, weights)

    return step


@dataclass(frozen=True)
class Training:
    """What is compared of two trainings.

    Args:
        losses: One a step.
        output: Of the first step.
        gradients: FQN -> gradient after the first step; tied parameters once.
        state: FQN -> parameter, buffer (not only persistent ones) after the last step.
        keys: Of the state dict.
    """

    losses: list[torch.Tensor]
    output: Any
    gradients: dict[str, torch.Tensor | None]
    state: dict[str, torch.Tensor]
    keys: list[str]


def gradients_of(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {fqn: None if p.grad is None else p.grad.clone() for fqn, p in model.named_parameters()}


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {fqn: tensor.detach().clone() for fqn, tensor in tensors}


def put_back(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give parameters and buffers their old values, and forget the gradients."""
    with torch.no_grad():
        for fqn, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(state[fqn])
    model.zero_grad()
    model.train()


def train(model: nn.Module, step: Step, batches: Iterable[Batch]) -> Training:
    """Train with SGD and momentum, one step a batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, output, gradients = [], None, {}
    for index, batch in enumerate(batches):
        optimizer.zero_grad()
        loss, found = step(batch)
        if index == 0:
            output, gradients = found, gradients_of(model)
        optimizer.step()
        losses.append(loss)
    return Training(losses, output, gradients, state_of(model), list(model.state_dict()))


def errors(found: Any, expected: Any) -> dict[str, float]:
    """Path -> largest difference of a tensor, as a fraction of its largest entry; None differs from a tensor.

    A tensor whose entries all but cancel (the gradient of a bias that changes nothing) is noise in both, so
    that a part in 10^8 of the largest entry of all is always forgiven.
    """
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    (mine, _), (theirs, _) = (pytree.tree_flatten_with_path(tree) for tree in (found, expected))
    sizes = [float(leaf.abs().max()) for _, leaf in theirs if is_tensor(leaf) and leaf.numel()]
    noise = 1e-8 * max(sizes, default=0.0)
    result = {}
    for (path, one), (_, other) in zip(mine, theirs, strict=True):
        if not is_tensor(one) or not is_tensor(other):
            assert type(one) is type(other), f"{pytree.keystr(path)}: {one} and {other}"
            continue
        assert (one.shape, one.dtype) == (other.shape, other.dtype), pytree.keystr(path)
        if not one.numel():
            continue
        difference = float((one.double() - other.double()).abs().max())
        largest = float(other.double().abs().max())
        result[pytree.keystr(path)] = max(difference - noise, 0.0) / max(largest, 1e-30)  # NaN stays NaN
    return result


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    wrong = {path: error for path, error in errors(found, expected).items() if not error <= tolerance}
    assert not wrong, f"relative errors beyond {tolerance}: {wrong}"


def assert_bitwise(found: Any, expected: Any) -> None:
    mine, theirs = (pytree.tree_flatten_with_path(tree)[0] for tree in (found, expected))
    for (path, one), (_, other) in zip(mine, theirs, strict=True):
        if is_tensor(one) and is_tensor(other):
            same = one.dtype == other.dtype and torch.equal(one, other)
        else:
            same = one is other or one == other
        assert same, f"{pytree.keystr(path)}: {one} and {other}"


def assert_same_training(found: Training, expected: Training) -> None:
    assert found.keys == expected.keys
    assert_close(found.output, expected.output)
    assert_close(found.gradients, expected.gradients)
    assert_close(found.losses, expected.losses)
    assert_close(found.state, expected.state)
