"""Messages in the words of the command line: ``--stages 9`` where the library says ``n_stages=9``."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping

_OPTIONS = {
    "n_stages": "--stages",
    "n_devices": "--devices",
    "n_ranks": "--ranks",
    "n_microbatches": "--microbatches",
    "schedule": "--schedule",
    "hardware": "--hardware",
    "cost": "--cost",
    "objective": "--objective",
    "memory_limit": "--memory-limit",
    "keep_together": "--keep-together",
    "same_stage": "--same-stage",
    "opaque": "--opaque",
    "pin": "--pin",
}
_NAMES = "|".join(_OPTIONS)
_VALUE = r"""[0-9]+(?!\w)|"[^"\n]*"|'[^'\n]*'|\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\)|\{[^{}\n]*\}"""
_GIVEN = re.compile(rf"(?<![\w.])({_NAMES})=({_VALUE})?")
_HEAD = re.compile(rf"^({_NAMES})(?=: )")
_BARE = re.compile(r"(?<![\w.'\"])(n_[a-z]+|memory_limit|keep_together|same_stage)(?![\w='\"])")


def in_option_words(message: str) -> str:
    """Write the arguments that a message speaks of as the options they come from.

    Args:
        message: What an error says, in the words of ``autopipe.plan``.

    Returns:
        The same with options.

    Example:
        >>> print(in_option_words("n_stages=9 or fewer, or memory_limit='20GiB'"))
        --stages 9 or fewer, or --memory-limit 20GiB
        >>> print(in_option_words('opaque=("a.*", "b"), pin={"embed": 0}'))
        --opaque 'a.*' --opaque b, --pin embed=0
    """
    message = _GIVEN.sub(lambda found: _option(found[1], found[2]), message)
    message = _HEAD.sub(lambda found: _OPTIONS[found[1]], message)
    return _BARE.sub(lambda found: _OPTIONS.get(found[1], found[1]), message)


def _option(name: str, value: str | None) -> str:
    option = _OPTIONS[name]
    if value is None:
        return f"{option} "
    try:
        given = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return f"{option} {value}"
    return " ".join(f"{option} {shlex.quote(text)}" for text in _texts(given))


def _texts(given: object) -> list[str]:
    """What follows the option, each time that it is given."""
    if isinstance(given, Mapping):
        return [f"{glob}={stage}" for glob, stage in given.items()]
    if isinstance(given, tuple | list):
        groups = (one if isinstance(one, tuple) else (one,) for one in given)
        return [",".join("GLOB" if glob is ... else str(glob) for glob in group) for group in groups]
    return [str(given)]
