"""``module:callable`` and ``path/to/file.py:callable``: how a command names something in the user's code."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from autopipe.cli.command import users_code
from autopipe.errors import ArgumentError


def thing_at(spec: str, option: str) -> Any:
    """Import what a spec names; modules of the current directory can be imported.

    Args:
        spec: ``package.module:name``, ``path/to/file.py:name``; the name may have dots.
        option: The option or argument that it was given for, as messages call it.

    Returns:
        The object.

    Raises:
        ArgumentError: If the spec is malformed, or if there is no such file, module or name.

    Example:
        >>> thing_at("math:floor", "--example")(2.5)
        2
    """
    place, _, name = spec.rpartition(":")
    is_file = place.endswith(".py")
    if not (_is_dotted(name) and (is_file or _is_dotted(place))):
        raise ArgumentError(
            f"{option}: {spec!r} names nothing to call.", remedy=_file_of(place or spec, name)
        )
    module = _file(place, option) if is_file else _module(place, option)
    try:
        return reduce(getattr, name.split("."), module)
    except AttributeError:
        near = difflib.get_close_matches(name, [one for one in vars(module) if not one.startswith("_")], n=1)
        raise ArgumentError(
            f"{option}: {place} has no {name!r}.",
            where=f"in {module.__file__}" if getattr(module, "__file__", None) else "",
            remedy=f"{place}:{near[0]}"
            if near
            else "a function of that file that returns what is asked for.",
        ) from None


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _file_of(path: str, name: str) -> str:
    """What was probably meant, where a file's name was given without its suffix or without a callable."""
    file = path if path.endswith(".py") else f"{path}.py"
    if not Path(file).is_file():
        return "package.module:callable, or path/to/file.py:callable"
    return f"{file}:{name if name.isidentifier() else 'callable'}"


def _module(name: str, option: str) -> ModuleType:
    _importable(Path.cwd())
    with users_code(f"{option}: importing {name}"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise ArgumentError(
                f"{option}: there is no module {error.name!r}.",
                why=f"Looked for in the current directory, {Path.cwd()}, and where Python looks.",
                remedy="start in the folder that holds it, or give path/to/file.py:callable.",
            ) from None


def _file(path: str, option: str) -> ModuleType:
    """Run a file as a module, once: what two specs name in it belongs together."""
    file = Path(path)
    if not file.is_file():
        raise ArgumentError(f"{option}: there is no file {path}.", where=f"in {Path.cwd()}")
    _importable(Path.cwd())
    _importable(file.resolve().parent)
    # Another module of that name, such as one of Python's own, keeps its place.
    names = (file.stem, f"{file.stem} of {file.resolve().parent}")
    for name in names:
        if (there := sys.modules.get(name)) is not None and _is_of(there, file):
            return there
    name = next(name for name in names if name not in sys.modules)
    with users_code(f"{option}: running {path}"):
        return _run(file, name)


def _is_of(module: ModuleType, file: Path) -> bool:
    return Path(getattr(module, "__file__", None) or ".").resolve() == file.resolve()


def _run(file: Path, name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickle look a class up by the name of its module.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
