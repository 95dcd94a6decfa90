"""One model and its batch: runs of it, whole and split, that leave it as it was, and their numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

import autopipe
from autopipe.pipeline import Pipeline
from tests.benchmarks.images_in_text import microbatches, packed
from tests.benchmarks.small_batches import loss_of

N_STAGES, N_MICROBATCHES = 4, 4


@dataclass(frozen=True)
class Numbers:
    """A loss and the gradients that it gave."""

    loss: torch.Tensor
    grads: dict[str, torch.Tensor | None]

    def difference(self, other: Numbers) -> str:
        """Say what differs bitwise, or ""."""
        return self._difference(other, _is_bitwise)

    def distance(self, other: Numbers) -> str:
        """Say what differs by more than sums in another order explain, or ""."""
        grads = [grad.abs().max() for grad in self.grads.values() if grad is not None and grad.numel()]
        noise = torch.finfo(self.loss.dtype).eps * float(max(grads, default=0.0))
        return self._difference(other, partial(_is_close, noise=noise))

    def _difference(self, other: Numbers, agree: Callable[[torch.Tensor, torch.Tensor], bool]) -> str:
        if not agree(self.loss, other.loss):
            return f"loss {self.loss.item():.7g} is {other.loss.item():.7g}"
        for name, grad in self.grads.items():
            found = other.grads.get(name)
            if (grad is None) != (found is None):
                return f"grad of {name} is {'None' if found is None else 'there'}"
            if grad is not None and found is not None and not agree(grad, found):
                return f"grad of {name} differs by {(grad - found).abs().max():.2g} of {grad.abs().max():.2g}"
        return ""


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


def _is_bitwise(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_close(one: torch.Tensor, other: torch.Tensor, noise: float) -> bool:
    """Whether two tensors agree; what all but cancels (the bias before a norm) is noise of the largest."""
    scale = float(one.abs().max()) if one.numel() else 0.0
    finer = 1e-6 if one.dtype == torch.float64 else 1.0
    rtol, atol = 1e-4 * finer, (1e-5 * scale + 1e-7) * finer + noise
    return torch.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True)


class Bench:
    """One model, its batch, and runs that leave it as it was.

    Args:
        model: The model.
        batch: Its keyword arguments.
    """

    def __init__(self, model: nn.Module, batch: dict[str, Any]) -> None:
        self.model, self.batch = model, batch
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self.has_own_loss = self._gives_a_loss()

    def in_double(self) -> Bench:
        """Return the same model and batch in float64, where nothing but rounding becomes small."""
        return Bench(self.model.double(), tree_map(_double, self.batch))

    def numbers(self, run: Callable[[], torch.Tensor]) -> Numbers:
        """Run forward and backward from a fixed seed; return the loss and the gradients."""
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        loss = run().detach().clone()
        grads = {name: p.grad for name, p in self.model.named_parameters()}
        self.model.zero_grad(set_to_none=True)
        self._restore()
        return Numbers(loss, grads)

    def _restore(self) -> None:
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in self._buffers:
                    buffer.copy_(self._buffers[name])

    def whole(self, call: Callable[..., Any]) -> Numbers:
        """Numbers of one call on the first microbatch."""

        def run() -> torch.Tensor:
            loss = loss_of(call(**self.microbatches()[0]))
            loss.backward()
            return loss

        return self.numbers(run)

    def loop(self) -> Numbers:
        """Numbers of the plain model in a loop over the microbatches."""

        def run() -> torch.Tensor:
            losses = []
            for microbatch in self.microbatches():
                loss = loss_of(self.model(**microbatch)) / N_MICROBATCHES
                loss.backward()
                losses.append(loss.detach())
            return torch.stack(losses).sum()

        return self.numbers(run)

    def split(self, n_stages: int) -> Pipeline:
        """Split the model, the first microbatch its example."""
        return autopipe.split(self.model, n_stages, (), self.microbatches()[0], n_microbatches=N_MICROBATCHES)

    def step(self, pipe: Pipeline) -> Numbers:
        """Numbers of a 1F1B step."""
        with pipe.engine(seed=3, batch_dims=packed(self.batch)) as engine:
            loss_fn = None if self.has_own_loss else loss_of
            return self.numbers(lambda: engine.step(**self.batch, loss_fn=loss_fn).loss)

    def _gives_a_loss(self) -> bool:
        """Whether the model itself returns a loss for this batch."""
        with torch.no_grad():
            output = self.model(**self.microbatches()[0])
        self._restore()
        return isinstance(output, dict) and output.get("loss") is not None

    def microbatches(self) -> list[dict[str, Any]]:
        """The batch cut along its samples."""
        return microbatches(self.batch, N_MICROBATCHES)

    def is_random(self) -> bool:
        """Whether the model draws random numbers."""
        torch.manual_seed(5)
        before = torch.get_rng_state()
        self.model(**self.microbatches()[0])
        return not torch.equal(before, torch.get_rng_state())
