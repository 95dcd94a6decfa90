"""Which rank owns which of the model's tensors, and the copies of tied ones on other ranks.

::

    rank 0   owner of wte.weight ──── refreshed before a step ───►  the model's own wte.weight   rank 1
                  .grad  ◄───────────── added after the step ─────  .grad

Every rank has the whole model, so what is owned elsewhere serves as the copy. It is in no ``parameters()`` of
the engine and in no state dict there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from autopipe.ir.stages import StagedModel
from autopipe.runtime.tensor_bytes import Flags, Layout
from autopipe.runtime.wires import Wires

_TIED = 2  # tag


class Shares:
    """The tensors of a model over the ranks of an engine.

    A parameter belongs to the earliest stage that uses it in the example; what no stage uses to rank 0. That
    holds for good, so that an optimizer made at the start knows what it trains.

    Args:
        model: The user's model, whole on every rank.
        example: The split for the example.
        rank_of_stage: ``[n_stages]``.
        rank: This one.
        wires: Lead to the others.
    """

    def __init__(
        self, model: nn.Module, example: StagedModel, rank_of_stage: Sequence[int], rank: int, wires: Wires
    ) -> None:
        """Find the owners; nothing is copied."""
        self._model, self._rank_of_stage = model, tuple(rank_of_stage)
        self._rank, self._wires = rank, wires
        self._owner = {fqn: self._rank_of_stage[users[0]] for fqn, users in example.parameters_of.items()}
        for fqn, _ in model.named_parameters():
            self._owner.setdefault(fqn, 0)
        self._users: dict[str, set[int]] = {}

    # Who owns what

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over the parameters that this rank owns."""
        for fqn, parameter in self._model.named_parameters():
            if self.owner(fqn) == self._rank:
                yield fqn, parameter

    def owner(self, fqn: str) -> int:
        """Return the rank that owns a tensor, by its canonical FQN."""
        return self._owner.get(fqn, 0)

    def names_here(self) -> frozenset[str]:
        """Return every FQN of the state dict whose tensor this rank owns, all names of tied ones."""
        canonical: dict[int, str] = {}
        for fqn, tensor in [*self._model.named_parameters(), *self._model.named_buffers()]:
            canonical.setdefault(id(tensor), fqn)
        found = set()
        for fqn, tensor in self._model.state_dict(keep_vars=True).items():
            owner = self.owner(canonical.get(id(tensor), fqn))
            if owner == self._rank:
                found.add(fqn)
        return frozenset(found)

    # Copies

    def add(self, staged: StagedModel) -> None:
        """Note the ranks that use what another one owns."""
        for fqn, stages in staged.parameters_of.items():
            ranks = {self._rank_of_stage[stage] for stage in stages}
            owner = self._owner.setdefault(fqn, self._rank_of_stage[stages[0]])
            if others := ranks - {owner}:
                self._users.setdefault(fqn, set()).update(others)

    @contextmanager
    def in_place(self, stage: int) -> Iterator[None]:
        """Do nothing: the copy is where the stage looks."""
        del stage
        yield

    def refresh(self) -> None:
        """Send every owner's value to the ranks that use it."""
        if not self._users:
            return
        self.drop_gradients()
        self._exchange(
            [(fqn, self.owner(fqn), user) for fqn, user in self._copies()],
            what="the refresh of",
            value=lambda tensor: tensor,
            take=_overwrite,
        )

    def collect(self) -> None:
        """Send the gradients of the copies to their owners, who add them in the order of the ranks."""
        if not self._users:
            return
        trained = {fqn for fqn, parameter in self._model.named_parameters() if parameter.requires_grad}
        self._exchange(
            [(fqn, user, self.owner(fqn)) for fqn, user in self._copies() if fqn in trained],
            what="the gradient of",
            value=lambda tensor: tensor.grad,
            take=_add_gradient,
        )
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget the gradients of the copies that are here."""
        for fqn, user in self._copies():
            if user == self._rank:
                self._tensor(fqn).grad = None

    def _copies(self) -> list[tuple[str, int]]:
        return [(fqn, user) for fqn, users in sorted(self._users.items()) for user in sorted(users)]

    def _exchange(
        self,
        moves: Sequence[tuple[str, int, int]],
        *,
        what: str,
        value: Callable[[torch.Tensor], torch.Tensor | None],
        take: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        """Carry out the moves (FQN, from rank, to rank) that begin or end here."""
        self._wires.open({(src, dst) for _, src, dst in moves})
        arriving, sent = [], []
        for fqn, src, dst in moves:
            if dst == self._rank:
                layout = Layout.of(self._tensor(fqn))
                arriving.append((fqn, self._wires.post(layout, src, _TIED)))
        for fqn, src, dst in moves:
            if src == self._rank:
                tensor = self._tensor(fqn)
                agreed = Layout.of(tensor)
                sent.append(self._wires.send(value(tensor), agreed, dst, _TIED, requires_grad=False))
        for fqn, receive in arriving:
            flags, found = receive(f"{what} {fqn}")
            if Flags.THERE in flags:
                take(self._tensor(fqn), found)
        for each in sent:
            each.wait()

    def _tensor(self, fqn: str) -> torch.Tensor:
        prefix, _, name = fqn.rpartition(".")
        found = getattr(self._model.get_submodule(prefix), name)
        assert isinstance(found, torch.Tensor)
        return found


def _overwrite(copy: torch.Tensor, value: torch.Tensor) -> None:
    with torch.no_grad():
        copy.copy_(value)


def _add_gradient(owner: torch.Tensor, gradient: torch.Tensor) -> None:
    gradient = gradient.to(owner.device)
    owner.grad = gradient.clone() if owner.grad is None else owner.grad.add_(gradient)
