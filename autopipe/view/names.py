"""Module names that fit: without what all of them share, from the first to the last, cut in the middle."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["fit", "joined", "short_names"]

_NUMBER = re.compile(r"\.?\d+$")
_GAP = " ... "
_TIGHT_GAP = ".."


def short_names(fqns: Iterable[str]) -> dict[str, str]:
    """Leave out the outer modules that nobody needs to tell the names apart.

    Numbered modules of one list are shortened alike.

    Args:
        fqns: FQNs.

    Returns:
        FQN -> the shortest end of it that no other list or module among them has.

    Example:
        >>> short_names(["model.embed", "model.layers.0", "model.layers.1", "head"])
        {'model.embed': 'embed', 'model.layers.0': 'layers.0', 'model.layers.1': 'layers.1', 'head': 'head'}
        >>> short_names(["encoder.h.0", "decoder.h.0"])
        {'encoder.h.0': 'encoder.h.0', 'decoder.h.0': 'decoder.h.0'}
    """
    names = list(dict.fromkeys(fqns))
    stems = {name: _NUMBER.sub("", name) for name in names}
    ends: dict[str, set[str]] = defaultdict(set)
    for stem in stems.values():
        parts = stem.split(".")
        for start in range(len(parts)):
            ends[".".join(parts[start:])].add(stem)
    return {name: _shortest(stems[name], ends) + name[len(stems[name]) :] for name in names}


def _shortest(stem: str, ends: dict[str, set[str]]) -> str:
    parts = stem.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if len(ends[end]) == 1 and end:
            return end
    return stem


def joined(first: str, last: str) -> str:
    """Name everything from the first to the last.

    Args:
        first: Name of the first.
        last: Name of the last.

    Returns:
        One name if they are the same.

    Example:
        >>> joined("h.5", "h.11"), joined("head", "head")
        ('h.5 ... h.11', 'head')
    """
    return first if first == last else f"{first}{_GAP}{last}"


def fit(name: str, width: int) -> str:
    """Cut a name or a pair of names to a width.

    Args:
        name: The name, or what ``joined`` made of two.
        width: Characters at most, 5 or more.

    Returns:
        The name. A pair first gives up the second name of a list, then its blanks; then what is too long is
        cut in the middle.

    Example:
        >>> [fit("blocks.5 ... blocks.11", width) for width in (22, 18, 14, 10)]
        ['blocks.5 ... blocks.11', 'blocks.5 ... 11', 'blocks.5..11', 'blo~.5..11']
        >>> fit("embedding", 9), fit("embeddings.word", 9), fit("embedding ... head", 16)
        ('embedding', 'embe~word', 'embedding..head')
    """
    if len(name) <= width:
        return name
    first, gap, last = name.partition(_GAP)
    if not gap:
        return _cut(name, width)
    stem = _NUMBER.sub("", first)
    if stem and stem == _NUMBER.sub("", last) and first != stem != last:
        last = last[len(stem) :].lstrip(".")
    if len(f"{first}{_GAP}{last}") <= width:
        return f"{first}{_GAP}{last}"
    room = width - len(_TIGHT_GAP)
    if room < 6:
        return _cut(f"{first}{_TIGHT_GAP}{last}", width)
    short = min(len(first), len(last), room // 2)
    first_room = short if len(first) <= len(last) else room - short
    return f"{_cut(first, first_room)}{_TIGHT_GAP}{_cut(last, room - first_room)}"


def _cut(name: str, width: int) -> str:
    keep = width - 1
    return name if len(name) <= width else f"{name[: keep - keep // 2]}~{name[len(name) - keep // 2 :]}"
