"""Where in the user's own code we are."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

_OURS = str(Path(__file__).resolve().parents[1])
_TORCH = str(Path(torch.__file__).resolve().parent)
_DISTRIBUTIONS = str(Path(torch.distributions.__file__).resolve().parent)
_SKIPPED = (_OURS, _TORCH, "<")


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
    """Return ``file:line`` of the innermost frame that is neither torch's nor ours, or ""."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_SKIPPED):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


def line_of_frame() -> str:
    """Return file, line, function and source of the innermost user frame, or ""."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame = frame.f_back
    return _described(frame.f_code, frame.f_lineno) if frame is not None else ""


def line_of_error(trace: TracebackType | None) -> str:
    """Return file, line, function and source of the innermost user frame of a traceback, or ""."""
    found = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_SKIPPED):
            found = _described(code, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _described(code: CodeType, line: int) -> str:
    text = linecache.getline(code.co_filename, line).strip()
    return f"at {code.co_filename}:{line} in {code.co_qualname}:  {text}"
