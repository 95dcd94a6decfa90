"""What tells one model from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autopipe.errors import PlanMismatchError


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one model from another: its class, and names, shapes and dtypes of its tensors.

    Args:
        model: The class name.
        tensors: (FQN, shape, dtype name), in the model's order.

    Example:
        >>> a = Fingerprint("Net", (("h.0.weight", (2, 2), "float32"),))
        >>> b = Fingerprint("Net", (("h.0.weight", (4, 2), "float32"),))
        >>> a.differences(b)
        ['h.0.weight is float32[4, 2], not float32[2, 2]']
    """

    model: str
    tensors: tuple[tuple[str, tuple[int, ...], str], ...]

    @property
    def digest(self) -> str:
        """A short hash of all of it."""
        text = json.dumps([self.model, self.tensors], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Fingerprint) -> list[str]:
        """Say in words how another model differs, in this model's order; empty if it does not."""
        found = [] if self.model == other.model else [f"the model is a {other.model}, not a {self.model}"]
        mine = {name: (shape, dtype) for name, shape, dtype in self.tensors}
        theirs = {name: (shape, dtype) for name, shape, dtype in other.tensors}
        for name, (shape, dtype) in mine.items():
            if name not in theirs:
                found.append(f"{name} is not in the other")
            elif theirs[name] != (shape, dtype):
                found.append(f"{name} is {theirs[name][1]}{list(theirs[name][0])}, not {dtype}{list(shape)}")
        return found + [f"{name} is only in the other" for name in theirs if name not in mine]

    def verify(self) -> None:
        """Check that every tensor is named once and has a shape and a dtype.

        Raises:
            PlanMismatchError: Naming the tensor.
        """
        seen: set[str] = set()
        for name, shape, dtype in self.tensors:
            if name in seen:
                raise PlanMismatchError(f"the fingerprint names {name} twice.")
            seen.add(name)
            if not dtype or any(size < 0 for size in shape):
                raise PlanMismatchError(f"the fingerprint says that {name} is {dtype}{list(shape)}.")

    def to_json(self) -> dict[str, Any]:
        """Return plain data that ``from_json`` reads."""
        return {"model": self.model, "tensors": [list(tensor) for tensor in self.tensors]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Read what ``to_json`` wrote; verified."""
        tensors = tuple((name, tuple(shape), dtype) for name, shape, dtype in data["tensors"])
        fingerprint = cls(data["model"], tensors)
        fingerprint.verify()
        return fingerprint

    def __str__(self) -> str:
        """Print the class and the hash."""
        return f"{self.model} ({self.digest})"
