"""What a terminal shows while a command works, and that nothing else sees it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from autopipe.cli import app
from tests.cli.running import MODEL, run, saved_plan

WORK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "inspect": (("inspect", *MODEL), ("building the model", "capturing the model", "pricing its nodes")),
    "plan": (
        ("plan", *MODEL, "-s", "2"),
        ("building the model", "capturing the model", "finding the best cuts"),
    ),
    "plan for devices": (("plan", *MODEL, "--devices", "2"), ("capturing the model", "trying 2 stages")),
    "doctor": (("doctor", *MODEL), ("building the model", "capturing the model")),
    "show": (("show", "plan.json", "--svg", "plan.svg"), ("reading plan.json", "drawing plan.svg")),
    "simulate": (("simulate", "plan.json"), ("reading plan.json", "simulating the step")),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", WORK)
def test_a_terminal_shows_what_is_being_done(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, words = WORK[name]
    saved_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    app(list(arguments), standalone_mode=False)
    assert [word for word in words if f"autopipe: {word}" not in terminal.getvalue()] == []
    assert "autopipe: " not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plan", "doctor"])
def test_a_pipe_sees_nothing_of_it(name: str) -> None:
    assert "autopipe: " not in run(*WORK[name][0]).stderr
