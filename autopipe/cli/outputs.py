"""The files that a command writes, checked before the work that fills them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer

from autopipe.errors import ArgumentError


def asked_for(files: Mapping[str, Path | None], suffixes: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that were asked for.

    Args:
        files: Option -> its path, or None.
        suffixes: Option -> how its file must end, of options whose file's form hangs on that.

    Returns:
        Option -> path, of those given.

    Raises:
        ArgumentError: If a path ends otherwise, lies in no folder, or cannot be written.

    Example:
        >>> asked_for({"--svg": Path("a.svg"), "--dot": None}, {"--svg": ".svg"})
        {'--svg': PosixPath('a.svg')}
    """
    given = {option: path for option, path in files.items() if path is not None}
    for option, path in given.items():
        suffix = suffixes.get(option, "")
        if suffix and path.suffix.lower() != suffix:
            raise ArgumentError(
                f"{option}: {path} does not end in {suffix}.", remedy=f"{option} NAME{suffix}"
            )
        if not path.parent.is_dir():
            raise ArgumentError(f"{option}: there is no folder {path.parent}.")
        if path.is_dir():
            raise ArgumentError(f"{option}: {path} is a folder.", remedy=f"{option} {path}/NAME{suffix}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ArgumentError(f"{option}: {path} cannot be written.", why="Permission denied.")
    return given


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write a file, and say on stderr that it is there.

    Args:
        path: The file, for messages.

    Raises:
        ArgumentError: If the system refuses, as it does when the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise ArgumentError(f"{path} cannot be written.", why=f"{error.strerror}.") from error
    typer.echo(f"{path} written", err=True)
