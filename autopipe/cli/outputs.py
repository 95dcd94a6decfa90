"""The files that a command writes, checked before the work that fills them."""

from __future__ import annotations

from collections.abc import Mapping
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
        ArgumentError: If a path ends otherwise, or lies in no folder.

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
    return given


def written(path: Path) -> None:
    """Say on stderr that a file is there."""
    typer.echo(f"{path} written", err=True)
