"""Results that a call does not return: it puts them into an object that it was given, such as a cache."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autopipe.errors import CaptureError


def refuse_hidden_results(
    before: list[torch.Tensor], after: list[torch.Tensor], place: Callable[[], str]
) -> None:
    """Check that a call put no other tensors into an object that it was given.

    Args:
        before: The tensors in its arguments.
        after: Those in them after the call.
        place: Says where the call is.

    Raises:
        CaptureError: If it did.
    """
    if len(after) != len(before) or any(a is not b for a, b in zip(after, before, strict=True)):
        raise CaptureError(
            "a call puts tensors into an object that it was given, and a node can only return them.",
            where=place(),
            remedy="return the new tensors, and put them into the object outside of the module.",
        )
