"""Runs the command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from autopipe.cli import app

SMALL = "tests.cli.small_model:build"
EXAMPLE = "tests.cli.small_model:example"
MODEL = (SMALL, "--example", EXAMPLE)


def run(*arguments: object, expect: int = 0) -> Result:
    """The result of ``autopipe ARGUMENTS``, with stdout and stderr apart."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, f"{result.exit_code}:\n{result.stdout}\n{result.stderr}"
    return result


def data(*arguments: object) -> Any:
    """What ``autopipe ARGUMENTS --json`` prints."""
    return json.loads(run(*arguments, "--json").stdout)


def complaint(*arguments: object, expect: int = 2) -> str:
    """What a command that fails says, on stderr alone and without a traceback."""
    result = run(*arguments, expect=expect)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def saved_plan(folder: Path, n_stages: int = 2) -> Path:
    path = folder / "plan.json"
    run("plan", *MODEL, "--stages", n_stages, "--microbatches", 4, "--output", path)
    return path
