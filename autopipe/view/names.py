"""Module names that fit: without what all of them share, from the first to the last, cut in the middle."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

__all__ = ["fit", "joined", "short_names"]

_LIST = re.compile(r"(.*?\.)\d+(?=\.|$)")
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


def fit(name: str, width: int, *, rougher: str = "") -> str:
    """Shorten a name or a pair of names to a width, as little as needed.

    Args:
        name: The name, or what ``joined`` made of two.
        width: Characters at most, 5 or more.
        rougher: What to say instead where the name only fits by being cut in the middle.

    Returns:
        The name. A pair first gives up what both names begin with, then its blanks; then the rougher name is
        tried the same way; at last something is cut in the middle.

    Example:
        >>> [fit("blocks.5 ... blocks.11.mlp", width) for width in (26, 19, 16, 10)]
        ['blocks.5 ... blocks.11.mlp', 'blocks.5 ... 11.mlp', 'blocks.5..11.mlp', 'bl~5..11~p']
        >>> fit("blocks.5.attn ... head", 17, rougher="blocks.5 ... head")
        'blocks.5 ... head'
        >>> fit("embedding", 9), fit("embeddings.word", 9)
        ('embedding', 'embe~word')
    """
    forms = [form for one in (name, rougher) if one for form in _forms(one)]
    return next((form for form in forms if len(form) <= width), None) or _cut(rougher or name, width)


def _forms(name: str) -> list[str]:
    """The ways to write a name or a pair, the longest first."""
    first, gap, last = name.partition(_GAP)
    if not gap:
        return [name]
    match = _LIST.match(first)
    stem = match[1] if match else ""
    rest = last[len(stem) :] if stem and _LIST.match(last) and last.startswith(stem) else last
    return [name, f"{first}{_GAP}{rest}", f"{first}{_TIGHT_GAP}{rest}"]


def _cut(name: str, width: int) -> str:
    """Cut in the middle; of a pair, the longer name more."""
    first, gap, last = _forms(name)[-1].partition(_TIGHT_GAP)
    if not gap or width < 6 + len(_TIGHT_GAP):
        return _cut_one(name, width)
    room = width - len(gap)
    short = min(len(first), len(last), room // 2)
    first_room = short if len(first) <= len(last) else room - short
    return f"{_cut_one(first, first_room)}{gap}{_cut_one(last, room - first_room)}"


def _cut_one(name: str, width: int) -> str:
    keep = width - 1
    return name if len(name) <= width else f"{name[: keep - keep // 2]}~{name[len(name) - keep // 2 :]}"
