"""What torch raises about a connection becomes the loss of a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopipe.errors import AutopipeError
from autopipe.runtime.first_cause import PeerLost


class answered:
    """Turns what torch raises about a connection into a ``PeerLost``.

    A class, not a generator: it is entered several times a message.

    Args:
        what: What is waited for.
        peers: The ranks that it should come from.
    """

    def __init__(self, what: str, peers: Sequence[int]) -> None:
        """Note what is waited for."""
        self._what, self._peers = what, peers

    def __enter__(self) -> None:
        """Begin to wait."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raise a ``PeerLost`` in place of a RuntimeError of torch."""
        if isinstance(error, RuntimeError) and not isinstance(error, AutopipeError):
            raise PeerLost(self._what, self._peers, error) from None
