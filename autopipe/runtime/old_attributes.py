"""What modules note on themselves in a forward, for the backward of the same microbatch.

A reversible block keeps the state of its random numbers in an attribute, and its backward goes by that.
Unsplit, no other forward comes in between; in a pipeline one does, and writes the attribute::

    unsplit     F0 sets .state    B0 reads it      F1 sets .state
    pipeline    F0 sets .state    F1 sets .state   B0 would read what F1 set: finds its own

Attributes are looked at that a module's own forward was seen to change during capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autopipe.ir.stages import StageModule
from autopipe.trace.volatile import volatile_attributes

_ABSENT = object()


class OldAttributes:
    """The attributes as the forward of one microbatch left them.

    Args:
        stage: The stage, its forward over.
    """

    def __init__(self, stage: StageModule) -> None:
        """Keep them; what is in a list or a dict is not copied."""
        self._kept = [
            (vars(module), {name: vars(module)[name] for name in names if name in vars(module)})
            for module in stage.module.modules()
            if (names := volatile_attributes(module))
        ]

    @contextmanager
    def in_place(self, *, forget: bool) -> Iterator[None]:
        """Let the modules have them, and after that what they had before.

        Args:
            forget: Whether that goes for what is set inside too: it runs the forward again. Else it stays.
        """
        before = [{name: now.get(name, _ABSENT) for name in kept} for now, kept in self._kept]
        for now, kept in self._kept:
            now.update(kept)
        try:
            yield
        finally:
            for (now, kept), then in zip(self._kept, before, strict=True):
                for name, value in then.items():
                    if forget or now.get(name, _ABSENT) is kept[name]:
                        _put(now, name, value)


def _put(attributes: dict[str, Any], name: str, value: Any) -> None:
    if value is _ABSENT:
        attributes.pop(name, None)
    else:
        attributes[name] = value
