"""Renders the part of docs/reference/cli.md that lists every command and option, from their help texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from autopipe.cli import app

MARKER = "<!-- Below: from the help texts. Renew: python -m pytest tests/test_cli_docs.py --overwrite -->"


def commands() -> dict[str, Any]:
    """Every command by name, and the program itself as ""."""
    program: Any = typer.main.get_command(app)
    return {"": program, **program.commands}


def parameters(command: Any) -> Iterator[tuple[str, str]]:
    """What a command takes: how it is written, and its help."""
    for one in command.params:
        kind = "" if getattr(one, "is_flag", False) else one.metavar or ""
        names = ", ".join(sorted(one.opts, key=len)) if one.param_type_name == "option" else ""
        yield f"{names} {kind}".strip(), sentence(getattr(one, "help", None) or "", one)


def sentence(text: str, parameter: Any) -> str:
    default = parameter.default if isinstance(parameter.default, str) else None
    return text + (" Required." if parameter.required else "") + (f" Default: {default}." if default else "")


def render() -> str:
    """The list, as Markdown."""
    return "\n".join([MARKER, *(line for name, one in commands().items() for line in section(name, one)), ""])


def section(name: str, command: Any) -> Iterator[str]:
    yield from ("", f"## `{f'autopipe {name}'.strip()}`", "")
    yield re.sub(r"\s+", " ", command.help)
    yield ""
    for written, text in parameters(command):
        yield f"- `{written}`: {text}"
