"""How a command line names a model and its example."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from autopipe.cli.spec import thing_at
from tests.cli.running import EXAMPLE, MODEL, SMALL, complaint, data, run

HERE = "tests.cli.small_model"

FILE = """
from dataclasses import dataclass
import torch

@dataclass
class Size:
    width: int = 8

def build():
    return torch.nn.Sequential(torch.nn.Linear(Size().width, 4), torch.nn.Linear(4, 2))

def example():
    return (torch.ones(2, 8),)
"""


@pytest.mark.parametrize("example", ["example", "example_by_name", "example_of_both"])
def test_an_example_is_a_tuple_a_dict_or_both(example: str) -> None:
    assert data("inspect", SMALL, "--example", f"{HERE}:{example}")["n_nodes"] == 9


def test_a_file_of_the_current_directory_can_be_named_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_model_of_mine.py").write_text(FILE, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    for place in ("a_model_of_mine.py", "a_model_of_mine"):
        assert data("inspect", f"{place}:build", "--example", f"{place}:example")["n_nodes"] == 2


def test_a_file_is_run_once_for_model_and_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in_the_current_folder.py").write_text("", "utf-8")
    (tmp_path / "deeper").mkdir()
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in ("named_like_nothing_else", "random"):
        path = f"deeper/{name}.py"
        Path(path).write_text(f"import in_the_current_folder\n{FILE}", "utf-8")
        make = thing_at(f"{path}:build", "MODEL")
        assert thing_at(f"{path}:example", "--example").__globals__ is make.__globals__


def test_a_file_does_not_take_the_place_of_a_module_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text(FILE, "utf-8")
    monkeypatch.setattr("sys.path", list(sys.path))
    path = f"{tmp_path}/random.py"
    assert data("inspect", f"{path}:build", "--example", f"{path}:example")["n_nodes"] == 2
    assert sys.modules["random"] is random


def test_a_model_may_be_there_already() -> None:
    assert data("inspect", f"{HERE}:READY", "--example", EXAMPLE)["n_nodes"] == 5
    assert "nothing to set" in complaint("inspect", f"{HERE}:READY", "--example", EXAMPLE, "--set", "depth=2")


def test_settings_reach_the_model_and_the_example() -> None:
    told = data("inspect", *MODEL, "--set", "width=16", "--set", "depth=2")
    assert told["param_bytes"] == 4 * (2 * (16 * 16 + 16) + 16 * 2 + 2)
    more = data("inspect", *MODEL, "--set", "width=16", "--set", "depth=2", "--batch", 24)
    assert more["saved_bytes"] > told["saved_bytes"]


def test_a_model_without_memory_has_the_same_costs() -> None:
    assert data("inspect", *MODEL, "--meta") == data("inspect", *MODEL)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "names nothing to call"),
        ("nothing", "names nothing to call"),
        (".relative:build", "names nothing to call"),
        ("a:b:c", "names nothing to call"),
        ("tests/cli/small_model:build", "Try: tests/cli/small_model.py:build"),
        ("tests/cli/small_model.py", "Try: tests/cli/small_model.py:callable"),
        (f"{HERE}:", "names nothing to call"),
        ("no.such.module:build", "there is no module 'no'"),
        ("tests.cli.no_such:build", "there is no module 'tests.cli.no_such'"),
        ("no_such.py:build", "there is no file no_such.py"),
        ("no_such.json", "there is no file no_such.json"),
        (f"{HERE}:biuld", f"Try: {HERE}:build"),
        (f"{HERE}:NUMBER", "cannot be called"),
        (f"{HERE}:no_model", "gives no torch.nn.Module but: int"),
        (f"{HERE}:fails", "raised ZeroDivisionError: no good"),
        (f"{HERE}:ends", "raised SystemExit: 5"),
    ],
)
def test_a_wrong_model_is_explained(spec: str, words: str) -> None:
    assert words in complaint("inspect", spec, "--example", EXAMPLE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "Try: --example module:callable"),
        (("--batch", 2), "no example to shape"),
        (("--example", f"{HERE}:example_as_list"), "returns a list"),
        (("--example", EXAMPLE, "--length", 3), "takes no argument 'length'"),
        (("--example", EXAMPLE, "--set", "width"), "sets nothing"),
        (("--example", EXAMPLE, "--set", "width=1", "--set", "width=2"), "twice"),
        (("--example", EXAMPLE, "--set", "breadth=1"), "unexpected keyword argument 'breadth'"),
        (("--example", EXAMPLE, "--batch", 0), "Invalid value for '--batch'"),
    ],
)
def test_a_wrong_example_is_explained(options: tuple[object, ...], words: str) -> None:
    assert words in complaint("inspect", SMALL, *options)


def test_the_users_error_says_where(tmp_path: Path) -> None:
    (tmp_path / "breaks_on_import.py").write_text("x = 1\nx.y\n", "utf-8")
    text = complaint("inspect", f"{tmp_path}/breaks_on_import.py:build")
    assert "raised AttributeError: 'int' object has no attribute 'y'" in text
    assert "breaks_on_import.py:2" in text


def test_a_missing_import_of_the_users_is_not_a_missing_model(tmp_path: Path) -> None:
    (tmp_path / "imports_what_is_not_there.py").write_text("import not_there_at_all\n", "utf-8")
    text = complaint("inspect", f"{tmp_path}/imports_what_is_not_there.py:build")
    assert "raised ModuleNotFoundError: No module named 'not_there_at_all'" in text


def test_nothing_is_left_behind_by_a_failing_model() -> None:
    complaint("inspect", f"{HERE}:fails", "--example", EXAMPLE)
    run("inspect", *MODEL)
