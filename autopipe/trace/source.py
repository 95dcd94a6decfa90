"""Where in the user's own code we are."""

from __future__ import annotations

import inspect
import linecache
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch
from torch import nn

_OURS = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent)
_DISTRIBUTIONS = str(Path(torch.distributions.__file__).resolve().parent)
_SKIPPED = (_OURS, _TORCH, "<")
_STDLIB = sysconfig.get_paths()["stdlib"]
_INSTALLED = ("site-packages", "dist-packages")


def is_skipped(code: CodeType) -> bool:
    """Whether code is torch's, ours or generated, and none of the user's."""
    return code.co_filename.startswith(_SKIPPED)


def is_torch(code: CodeType) -> bool:
    """Whether code is torch's."""
    return code.co_filename.startswith(_TORCH)


def is_checking(code: CodeType) -> bool:
    """Whether code may refuse values as a model's own does: the user's, and that of torch.distributions."""
    return not is_skipped(code) or code.co_filename.startswith(_DISTRIBUTIONS)


def user_line() -> str:
    """Return ``file:line`` of the innermost frame that is the user's, or ""."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_users(frame.f_code):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def line_of_frame() -> str:
    """Return file, line, function and source of the innermost running line of a module's own, or ""."""
    return _described(_frames())


def line_of_error(trace: TracebackType | None) -> str:
    """Return file, line, function and source of the line of a module's own in a traceback, or ""."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return _described(reversed(frames))


def line_of_code(code: CodeType, line: int) -> str:
    """Return file, line, function and source."""
    text = linecache.getline(code.co_filename, line).strip()
    return f"at {code.co_filename}:{line} in {code.co_qualname}:  {text}"


def _is_users(code: CodeType) -> bool:
    """Whether code is neither torch's, ours, generated nor of the standard library."""
    name = code.co_filename
    if name.startswith(_STDLIB):
        return any(part in name for part in _INSTALLED) and not is_skipped(code)
    return not is_skipped(code)


def _frames() -> Iterator[tuple[FrameType, int]]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _described(frames: Iterator[tuple[FrameType, int]]) -> str:
    """Describe the innermost line in the file of a module; and the line of a helper elsewhere that it runs.

    Args:
        frames: Frames and their lines, innermost first.
    """
    users = [(frame, line) for frame, line in frames if _is_users(frame.f_code)]
    if not users:
        return ""
    innermost = users[0]
    found = next((at for at, (frame, _) in enumerate(users) if _is_of_a_module(frame)), 0)
    home = users[found][0].f_code.co_filename
    own = next((frame, line) for frame, line in users if frame.f_code.co_filename == home)
    text = line_of_code(own[0].f_code, own[1])
    if own[0] is innermost[0]:
        return text
    return f"{text} (that is {line_of_code(innermost[0].f_code, innermost[1]).removeprefix('at ')})"


def _is_of_a_module(frame: FrameType) -> bool:
    """Whether a frame is a method of a module, in a file that defines a ``forward`` of its class."""
    code = frame.f_code
    if not code.co_argcount:
        return False
    owner = frame.f_locals.get(code.co_varnames[0])
    return isinstance(owner, nn.Module) and code.co_filename in _files_of(type(owner))


def _files_of(cls: type) -> frozenset[str]:
    """Return the files that define a ``forward`` of a class of modules, or of one that it inherits from."""
    with_forward = [base for base in cls.__mro__ if "forward" in vars(base)]
    files = {getattr(sys.modules.get(base.__module__), "__file__", None) for base in with_forward}
    codes = (getattr(inspect.unwrap(vars(base)["forward"]), "__code__", None) for base in with_forward)
    return frozenset(name for name in (*files, *(code and code.co_filename for code in codes)) if name)
