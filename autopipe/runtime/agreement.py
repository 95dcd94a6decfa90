"""The beginning of a call over several ranks: it is the same call, and together they give its arguments."""

from __future__ import annotations

import pickle
from hashlib import blake2b
from typing import Any

import torch
from torch import nn

from autopipe.ir.structure import Structure
from autopipe.runtime.given import completed, described, merged
from autopipe.runtime.handshake import compare
from autopipe.runtime.peers import Peers
from autopipe.trace import signature_of
from autopipe.trace.dim_order import dim_order

_N_DIGEST = 16


class Agreement:
    """Compares the calls of all ranks, by digests as long as these are those of the call before.

    Args:
        model: The user's model, whose modes and attributes belong to a call.
        peers: The ranks.
    """

    def __init__(self, model: nn.Module, peers: Peers) -> None:
        """Start with no call known."""
        self._model, self._peers = model, peers
        self.forget()

    def forget(self) -> None:
        """Compare in full the next time."""
        self._asked: Any = None
        self._digests: list[bytes] = []
        self._whole: Any = None
        self.stand_ins: list[torch.Tensor] = []

    def reach(self, call: tuple[Any, ...], given: Any, place: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
        """Compare the call with that of every rank, and fill what this one lacks.

        Args:
            call: Its name, and what else must be equal on every rank.
            given: The arguments as this rank gave them.
            place: Seed and step of this rank.

        Returns:
            The arguments, with ``stand_ins`` for what other ranks gave; seed and step of rank 0.

        Raises:
            PlanMismatchError: On every rank, naming the first difference.
        """
        signature = signature_of(self._model, (), {})
        asked = (call, signature, _outline(given))
        if asked != self._asked:
            self._asked = asked
            self._mine = pickle.dumps((call, described(given)))
            self._digest = blake2b(self._mine + repr(signature).encode(), digest_size=_N_DIGEST).digest()
        numbers = b"".join(number.to_bytes(8, "little") for number in place)
        answers = self._peers.gather(self._digest + numbers, f"the beginning of {call[0]}")
        digests = [answer[:_N_DIGEST] for answer in answers]
        if self._digests != digests:
            self._whole = self._compared(call, self._mine, signature)
            self._digests = digests
        whole, self.stand_ins = completed(self._whole, given)
        seed, step = (int.from_bytes(answers[0][at : at + 8], "little") for at in (_N_DIGEST, _N_DIGEST + 8))
        return whole, (seed, step)

    def _compared(self, call: tuple[Any, ...], mine: bytes, signature: Any) -> Any:
        """Exchange the calls themselves, and put their arguments together."""
        modes = {name: repr(value) for name, value in (*signature.state, ("modes", signature.region))}
        data = pickle.dumps((mine, modes))
        answers = self._peers.gather_any(data, f"the arguments of {call[0]}")
        found = [pickle.loads(answer) for answer in answers]
        compare([{"the signature": modes} for _, modes in found])
        calls = [pickle.loads(each) for each, _ in found]
        names = ("call", "loss_fn given", "return_output")
        compare([{"the call": dict(zip(names, each, strict=False))} for each, _ in calls])
        return merged([given for _, given in calls])


def _outline(given: Any) -> tuple[Any, ...]:
    """Return what ``described`` tells, quick to make and to compare."""
    structure, tensors = Structure.of(given)
    return structure, [(t.shape, t.dtype, t.requires_grad, dim_order(t)) for t in tensors]
