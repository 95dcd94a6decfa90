"""The shape of the house: its rooms, how long a file may be, and what the ground floor's types owe."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Nothing here may load torch, neither when imported nor through what it imports.
TORCH_FREE = (
    "autopipe",
    "autopipe.errors",
    "autopipe.ir",
    "autopipe.ir.tensor",
    "autopipe.ir.cost_graph",
    "autopipe.ir.hardware",
    "autopipe.ir.partition",
    "autopipe.ir.schedule",
    "autopipe.ir.timeline",
    "autopipe.ir.fingerprint",
    "autopipe.ir.alternatives",
    "autopipe.ir.plan",
    "autopipe.partition",
    "autopipe.schedule",
    "autopipe.search",
    "autopipe.view",
)

# The types of the design. Those that hold live modules and graphs have no JSON; an Action's form is its text.
LIVE_TYPES = {"TracedModel", "StageModule", "StagedModel"}
JSON_TYPES = {"TensorSpec", "CostGraph", "Hardware", "Partition", "Schedule", "Timeline", "Plan"}
DESIGN_TYPES = LIVE_TYPES | JSON_TYPES | {"CostNode", "Action"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_files() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return listing.stdout.splitlines()


def test_the_torch_free_rooms_are_there() -> None:
    assert [name for name in TORCH_FREE if not exists(name)] == []


@pytest.mark.parametrize("module", [name for name in TORCH_FREE if exists(name)])
def test_room_never_loads_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"import {module} loads torch, or fails:\n{done.stderr}"


def test_every_name_of_the_torch_free_packages_comes_without_torch() -> None:
    """Lazy names must stay torch-free when they are used, not only until then."""
    packages = [
        name
        for name in ("autopipe.partition", "autopipe.schedule", "autopipe.search", "autopipe.view")
        if exists(name)
    ]
    lines = ["import sys"]
    lines += [f"import {name}\nfor symbol in {name}.__all__: getattr({name}, symbol)" for name in packages]
    lines += ["sys.exit('torch' in sys.modules)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"a name of {packages} loads torch, or fails:\n{done.stderr}"


@pytest.mark.parametrize(("folders", "limit"), [(("autopipe", "models"), 300), (("tests",), 400)])
def test_files_are_short_enough_to_read_in_one_sitting(folders: tuple[str, ...], limit: int) -> None:
    lengths = {relative(path): len(path.read_text("utf-8").splitlines()) for path in sources(*folders)}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > limit} == {}


def test_files_are_named_for_what_they_hold() -> None:
    nameless = {"utils", "util", "common", "helpers", "misc"}
    assert [relative(path) for path in sources("autopipe", "models", "tests") if path.stem in nameless] == []


def test_top_level_folders_are_the_four_of_the_design() -> None:
    folders = {name.split("/")[0] for name in tracked_files() if "/" in name}
    assert folders <= {"autopipe", "tests", "models", "docs", ".ci"}


def test_no_room_of_the_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    rooms = {
        folder for path in (ROOT / "tests").rglob("test_*.py") for folder in path.relative_to(ROOT).parts
    }
    passed_over = pytestconfig.getini("norecursedirs")
    assert "dist" in rooms
    assert not [room for room in rooms for pattern in passed_over if fnmatch(room, pattern)]


def test_the_library_never_prints() -> None:
    prints = [
        f"{relative(path)}:{node.lineno}"
        for path in sources("autopipe")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_third_party_imports_are_declared() -> None:
    """What autopipe imports is a dependency or an extra: a clean install never meets an ImportError."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [*project["optional-dependencies"]["hf"], *project["optional-dependencies"]["report"]]
    declared = {line.split(">=")[0].strip() for line in [*project["dependencies"], *extras]}
    imported = {name for path in sources("autopipe") for name in imported_packages(path)}
    assert imported - set(sys.stdlib_module_names) - {"autopipe"} <= declared


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_constraints_pin_everything_that_pyproject_names() -> None:
    """And nothing else, so that the two files cannot drift apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    named = {line.split(">=")[0].strip() for line in [*project["dependencies"], *extras]}
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.split("==")[0].strip() for line in lines if line.strip() and not line.startswith("#")}
    assert pinned == named


def ir_types() -> list[type]:
    """Every public dataclass that a module of the ground floor defines."""
    names = [f"autopipe.ir.{path.stem}" for path in sources("autopipe/ir") if path.stem != "__init__"]
    return [
        thing
        for module in map(importlib.import_module, names)
        for name, thing in sorted(vars(module).items())
        if dataclasses.is_dataclass(thing)
        and thing.__module__ == module.__name__
        and not name.startswith("_")
    ]


IR_TYPES = pytest.mark.parametrize("ir_type", ir_types(), ids=lambda ir_type: ir_type.__name__)


def test_the_ground_floor_has_its_types() -> None:
    assert {ir_type.__name__ for ir_type in ir_types()} >= DESIGN_TYPES


@IR_TYPES
def test_ir_type_is_frozen_and_slotted(ir_type: type) -> None:
    assert ir_type.__dataclass_params__.frozen
    assert "__slots__" in vars(ir_type)


@IR_TYPES
def test_ir_type_can_verify_itself(ir_type: type) -> None:
    assert hasattr(ir_type, "verify")


@IR_TYPES
def test_torch_free_ir_type_goes_to_json_and_back(ir_type: type) -> None:
    ways = {way for way in ("to_json", "from_json") if hasattr(ir_type, way)}
    assert ways == {"to_json", "from_json"} or (not ways and ir_type.__name__ not in JSON_TYPES)
