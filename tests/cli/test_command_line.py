"""What all commands have in common: how they start, what they write where, and how they end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autopipe import __version__
from tests.cli.running import EXAMPLE, MODEL, SMALL, complaint, run, saved_plan

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


def test_remedies_are_options() -> None:
    assert "Try: --stages 9 or fewer" in complaint("plan", *MODEL, "-s", 50, expect=1)
    limit = ("plan", *MODEL, "-s", 2, "--memory-limit")
    asked = re.search(r"Try: --memory-limit (\d+) or more", complaint(*limit, "100B", expect=1))
    assert asked is not None
    assert "Try: --memory-limit" in complaint(*limit, int(asked[1]) - 1, expect=1)
    run(*limit, asked[1])
    assert "--pin '*.b=0' looks deeper" in complaint("plan", *MODEL, "-s", 2, "--pin", "b=0")


def test_every_command_is_told_in_one_line_of_help() -> None:
    told = run("--help").stdout.split("Commands:")[1].split("Exit codes")[0]
    assert "..." not in told
    assert [line.split()[0] for line in told.strip().splitlines()] == [
        "inspect",
        "plan",
        "show",
        "simulate",
        "doctor",
    ]


@pytest.mark.parametrize(
    ("stdout", "code", "told"),
    [("/dev/full", 2, "stdout cannot be written: No space left on device.\n"), ("a closed pipe", 141, "")],
)
def test_what_cannot_be_printed_ends_the_command_quietly(
    tmp_path: Path, stdout: str, code: int, told: str
) -> None:
    command = [sys.executable, "-m", "autopipe", "show", str(saved_plan(tmp_path))]
    if stdout == "/dev/full":
        if not Path(stdout).exists():
            pytest.skip("there is no /dev/full")
        out = os.open(stdout, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    assert (done.returncode, done.stderr) == (code, told)


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autopipe.cli.inspect.module_costs", interrupted)
    assert run("inspect", *MODEL, expect=130).stdout == ""


def test_a_file_that_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.mkdir()
    assert "is a directory" in complaint("plan", *MODEL, "-s", 2, "-o", path)
    monkeypatch.setattr("os.access", lambda *_: False)
    text = complaint("plan", f"{SMALL[:-5]}fails", "-s", 2, "-o", tmp_path / "other.json")
    assert text.startswith(f"ArgumentError: --output: {tmp_path}/other.json cannot be written")


def test_a_disk_that_fills_up_is_explained(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    for command, option in (("show", "--html"), ("simulate", "--svg")):
        picture = tmp_path / f"picture.{option[2:]}"
        picture.symlink_to("/dev/full")
        text = complaint(command, saved_plan(tmp_path), option, picture)
        assert text == f"ArgumentError: {picture} cannot be written.\n  No space left on device.\n"


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
