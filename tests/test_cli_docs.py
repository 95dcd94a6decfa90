"""Every command and option of the command line has help and is in the reference; what pages show is true.

A ```console block is a session: each ``$ autopipe ...`` line is run, in order, in one folder for the whole
page, and what follows it is what it prints. A block ```python title=FILE is a file of that folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autopipe.cli import app
from tests.cli_page import MARKER, commands, parameters, render

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "cli.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^```(?:python|json) title=(\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def everything() -> Iterator[tuple[str, str, str]]:
    for name, command in commands().items():
        yield name, "", command.help or ""
        yield from ((name, written, text) for written, text in parameters(command))


def test_the_commands_are_those_of_the_design() -> None:
    assert set(commands()) == {"", "inspect", "plan", "show", "simulate", "doctor"}


def test_every_command_and_option_has_help() -> None:
    assert [(name, option) for name, option, text in everything() if not re.match(r"\w", text)] == []


@pytest.mark.parametrize("name", [name for name in commands() if name])
def test_every_command_speaks_json_and_debugs(name: str) -> None:
    assert {"--json", "--debug"} <= {written for written, _ in parameters(commands()[name])}


def test_the_reference_lists_every_command_and_option(overwrite: bool) -> None:
    text = PAGE.read_text("utf-8")
    by_hand = text.partition(MARKER)[0]
    if overwrite:
        PAGE.write_text(by_hand + render(), "utf-8")
        text = by_hand + render()
    stale = "docs/reference/cli.md is stale; try: python -m pytest tests/test_cli_docs.py --overwrite"
    assert text == by_hand + render(), stale


def pages() -> list[Path]:
    return [page for page in sorted((ROOT / "docs").rglob("*.md")) if CONSOLE.search(page.read_text("utf-8"))]


def test_there_are_pages_with_sessions() -> None:
    assert PAGE in pages()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sessions_on_the_page_print_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = page.read_text("utf-8")
    for name, content in FILE.findall(text):
        (tmp_path / name).write_text(content, "utf-8")
    terminal = Terminal()
    true = CONSOLE.sub(lambda block: f"```console\n{terminal.shown(block[1])}```", text)
    if overwrite:
        page.write_text(true, "utf-8")
    assert page.read_text("utf-8") == true, (
        "if that is right: python -m pytest tests/test_cli_docs.py --overwrite"
    )


def test_the_index_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text("utf-8")
    found = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} - {"README.md"}
    for_readers = {path for path in found if not path.startswith(("adr/", "benchmarks/"))}
    assert {path for path in for_readers if f"({path})" not in index} == set()


class Terminal:
    """Runs a session: ``$ autopipe ...``, and ``$ echo $?`` for the exit code of the line before."""

    def __init__(self) -> None:
        self._exit_code = 0

    def shown(self, session: str) -> str:
        lines = [line for line in session.splitlines() if line.startswith("$ ")]
        return "".join(f"{line}\n{self._printed(shlex.split(line[2:]))}" for line in lines)

    def _printed(self, words: list[str]) -> str:
        if words == ["echo", "$?"]:
            return f"{self._exit_code}\n"
        assert words[0] == "autopipe", f"the test runs autopipe only, not {words[0]}"
        result = CliRunner().invoke(app, words[1:])
        self._exit_code = result.exit_code
        return result.output
