"""What all commands have in common: how they start, what they write where, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autopipe import __version__
from tests.cli.running import EXAMPLE, MODEL, SMALL, complaint, run

ROOT = Path(__file__).parents[2]
NEEDS_NO_TORCH = (
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in ("inspect", "plan", "show", "doctor")),
)


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_python_m_autopipe_is_the_command() -> None:
    done = in_a_process("-m", "autopipe", "plan", "models.gpt:build", "--stages", "2")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ArgumentError: autopipe needs an example")
    assert "--example module:callable" in done.stderr


def test_help_loads_no_torch() -> None:
    program = """
import sys
from typer.testing import CliRunner
from autopipe.cli import app
for arguments in {!r}:
    assert CliRunner().invoke(app, arguments).exit_code == 0
sys.exit('torch' in sys.modules or 'transformers' in sys.modules)
"""
    done = in_a_process("-c", program.format(NEEDS_NO_TORCH))
    assert done.returncode == 0, done.stderr


def test_showing_and_simulating_load_no_torch(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    run("plan", *MODEL, "-s", 2, "-o", plan)
    program = f"""
import sys
from typer.testing import CliRunner
from autopipe.cli import app
for command in ("show", "simulate"):
    assert CliRunner().invoke(app, [command, {str(plan)!r}]).exit_code == 0
sys.exit('torch' in sys.modules)
"""
    done = in_a_process("-c", program)
    assert done.returncode == 0, done.stderr


def test_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"autopipe {__version__}\n"


def test_an_unknown_command_or_option_ends_with_2() -> None:
    assert "No such command" in complaint("divide")
    assert "No such option" in complaint("show", "--fast")


def test_what_the_users_code_prints_stays_out_of_the_json() -> None:
    result = run("inspect", *MODEL, "--json")
    json.loads(result.stdout)
    assert result.stderr == "a word of the user's\n"


@pytest.mark.parametrize("command", ["inspect", "doctor", "plan"])
def test_the_same_question_has_the_same_answer(command: str) -> None:
    options = ("--stages", 2) if command == "plan" else ()
    first, second = (run(command, *MODEL, *options, "--json").stdout for _ in range(2))
    assert first == second


def test_no_such_split_ends_with_1() -> None:
    assert complaint("plan", *MODEL, "-s", 50, expect=1).startswith(
        "a word of the user's\nPartitionError: asked for 50 stages"
    )
    assert "InfeasibleError" in complaint("plan", *MODEL, "-s", 2, "--memory-limit", "100B", expect=1)


def test_debug_shows_where_an_error_comes_from() -> None:
    result = run("plan", SMALL, "-s", 2, "--debug", expect=2)
    assert "Traceback" in result.stderr
    assert "ArgumentError: autopipe needs an example" in result.stderr


def test_a_bug_of_ours_is_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr("autopipe.cli.inspect.module_costs", broken)
    result = run("inspect", *MODEL, expect=3)
    assert "This is a bug of autopipe" in result.stderr
    assert "KeyError: 'of ours'" in result.stderr


def test_an_example_of_the_wrong_shape_is_explained_without_torchs_own_log() -> None:
    text = complaint("plan", SMALL, "-s", 2, "--example", f"{EXAMPLE}_of_another_shape")
    assert "ArgumentError: the arguments do not fit forward(x)" in text
    assert "It was given x: float32[4, 5]" in text
