"""Renders docs/reference/api.md, the list of every public name, from the docstrings.

## `autopipe.partition`                         a package, with its own first sentence
- `solve(cost_graph, n_stages, *, ...)`: ...    a name of its __all__
  - `.gap`: ...                                 what a public class offers
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from types import FunctionType

HEADER = """# Every public name

Generated from the docstrings, which say more (`help(autopipe.split)`); renew it with
`python -m pytest tests/test_docs.py --overwrite`.
"""


def docstring(thing: object) -> str:
    """The object's own words: not its base class's, and not what dataclass or Enum makes up."""
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    made_up = isinstance(thing, type) and (text.startswith(f"{thing.__name__}(") or text == enum.Enum.__doc__)
    return "" if made_up else text


def public_members(cls: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that the class itself defines, methods as plain functions."""
    for name, member in vars(cls).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__  # noqa: PLW2901
        if not name.startswith("_") and isinstance(member, FunctionType | property):
            yield name, member


def parameters(thing: object) -> list[inspect.Parameter]:
    """What a caller passes: nothing for an enum or a constant, no self or cls."""
    if not callable(thing) or (isinstance(thing, type) and issubclass(thing, enum.Enum)):
        return []
    try:
        found = list(inspect.signature(thing).parameters.values())
    except ValueError:
        return []
    return [one for position, one in enumerate(found) if position or one.name not in ("self", "cls")]


def call_form(thing: object) -> str:
    """``(a, b=1, *, c=...)``: names and plain defaults, the same text on every Python version."""
    words = []
    starred = False
    for one in parameters(thing):
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            words.append("*")
        starred |= one.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(one.kind, "")
        words.append(stars + one.name + default_form(one.default))
    return f"({', '.join(words)})"


def default_form(default: object) -> str:
    if default is inspect.Parameter.empty:
        return ""
    plain = default is None or default == () or type(default) in (bool, int, float, str)
    return f"={default!r}" if plain else "=..."


def first_sentence(thing: object) -> str:
    paragraph = docstring(thing).split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.!?:]) (?=[A-Z`])", paragraph)[0]


def entry(name: str, thing: object) -> list[str]:
    if isinstance(thing, FunctionType):
        return [f"- `{name}{call_form(thing)}`: {first_sentence(thing)}"]
    if not isinstance(thing, type):
        return [f"- `{name}`: data, described where it is defined."]
    plain = dataclasses.is_dataclass(thing) or "__init__" in vars(thing) or issubclass(thing, tuple)
    lines = [f"- `{name}{call_form(thing) if plain else ''}`: {first_sentence(thing)}"]
    for member_name, member in public_members(thing):
        form = "" if isinstance(member, property) else call_form(member)
        lines.append(f"  - `.{member_name}{form}`: {first_sentence(member)}")
    return lines


def section(package: str, things: Mapping[str, object]) -> str:
    entries = [entry(name.removeprefix(f"{package}."), thing) for name, thing in sorted(things.items())]
    about = first_sentence(importlib.import_module(package))
    return "\n".join([f"\n## `{package}`\n", about, "", *(line for lines in entries for line in lines), ""])


def render(packages: Mapping[str, Mapping[str, object]]) -> str:
    """The whole page: for each package, in this order, its public things by their full name."""
    return HEADER + "".join(section(package, things) for package, things in packages.items())
