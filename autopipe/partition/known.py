"""What questions about the same graphs have in common, found once.

::

    solve(graph, 2, known=known)    contracts the graph, reduces it, cuts it
    solve(graph, 3, known=known)                                cuts it
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Known:
    """A memory that several calls of ``solve`` share; the graphs must not change in between.

    Example:
        >>> known = Known()
        >>> graph = object()
        >>> known.recall((graph,), "answer", lambda: 42), known.recall((graph,), "answer", lambda: 43)
        (42, 42)
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._facts: dict[Hashable, tuple[tuple[object, ...], Any]] = {}

    def recall(self, about: tuple[object, ...], key: Hashable, find: Callable[[], T]) -> T:
        """Return what was found before, or find it.

        Args:
            about: Objects that it is about, told apart by identity and kept.
            key: What is asked of them.
            find: Finds it.

        Returns:
            What it found the first time.
        """
        whole = tuple(map(id, about)), key
        if whole not in self._facts:
            self._facts[whole] = about, find()
        found: T = self._facts[whole][1]
        return found
