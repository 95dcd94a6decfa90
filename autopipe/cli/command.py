"""How a command ends: its text on stdout and exit code 0, or a message on stderr and another code."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import typer

from autopipe.cli.option_words import in_option_words
from autopipe.errors import ArgumentError, AutopipeError, PartitionError

NO_SUCH_SPLIT, USAGE, OUR_BUG = 1, 2, 3
"""Exit codes; 0 is success, and the command line's own parser ends with 2 too."""
INTERRUPTED, PIPE_CLOSED = 130, 141
"""What shells show of a command that Ctrl-C ended, or whose reader went away (128 + the signal)."""


def command(function: Callable[..., str]) -> Callable[..., None]:
    """Make a command of a function that returns what is to be printed.

    Args:
        function: Takes the options of the command, ``debug`` among them.

    Returns:
        A function with the same options that prints, and ends with an exit code where something is wrong.
    """

    @functools.wraps(function)
    def run(**options: Any) -> None:
        try:
            text = function(**options)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (AutopipeError, OSError) as error:
            raise typer.Exit(_reported(error, options["debug"])) from error
        except Exception:
            typer.echo("This is a bug of autopipe; please report it with the lines below.", err=True)
            traceback.print_exc()
            raise typer.Exit(OUR_BUG) from None
        _print(text)

    return run


def _print(text: str) -> None:
    """Write the text to stdout, which may be a pipe that nobody reads any more, or a full disk.

    Raises:
        typer.Exit: If it cannot be written.
    """
    try:
        typer.echo(text)
    except OSError as error:
        # What is left in the buffer must not be complained about when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise typer.Exit(PIPE_CLOSED) from None
        typer.echo(f"stdout cannot be written: {error.strerror}.", err=True)
        raise typer.Exit(USAGE) from None


def _reported(error: AutopipeError | OSError, debug: bool) -> int:
    """Write the message, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    else:
        typer.echo(f"{type(error).__name__}: {in_option_words(str(error))}", err=True)
    return NO_SUCH_SPLIT if isinstance(error, PartitionError) else USAGE


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run code of the user's: what it prints goes to stderr, what it raises becomes a message.

    Args:
        what: What is run, as the message begins.

    Raises:
        ArgumentError: If the code raised or ended the process; says where.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except AutopipeError:
        raise
    except (Exception, SystemExit) as error:
        raise ArgumentError(
            f"{what} raised {type(error).__name__}: {error}".rstrip(": "),
            where=_where(error),
            remedy="run it by itself first; --debug shows the whole traceback.",
        ) from error


def _where(error: BaseException) -> str:
    """The innermost line of code that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or frames[-1].filename == __file__:
        return ""
    last = frames[-1]
    return f"at {last.filename}:{last.lineno} in {last.name}:  {last.line}"


def as_json(data: Any) -> str:
    """Return data as JSON text, in the form of plan files: the same data, the same bytes."""
    return json.dumps(data, indent=1)
