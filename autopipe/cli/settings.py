"""``--set name=value``: keyword arguments from the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

from autopipe.errors import ArgumentError

_WORDS = {"true": True, "false": False, "null": None, "none": None}


def parse_settings(given: Iterable[str], option: str = "--set", form: str = "name=value") -> dict[str, Any]:
    """Read settings; a value is a Python literal, or else a text.

    Args:
        given: Texts ``name=value``.
        option: The option, as messages call it.
        form: What is written after it, as messages show it.

    Returns:
        Name -> value.

    Raises:
        ArgumentError: If there is no name, no ``=``, or a name twice.

    Example:
        >>> parse_settings(["n_layers=12", "p=0.1", "act=gelu", "tied=false"])
        {'n_layers': 12, 'p': 0.1, 'act': 'gelu', 'tied': False}
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ArgumentError(f"{option} {text!r} sets nothing.", remedy=f"{option} {form}")
        if name.strip() in found:
            raise ArgumentError(f"{option} gives {name.strip()!r} twice.")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
