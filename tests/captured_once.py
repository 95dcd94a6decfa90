"""Captures kept while many splits of the same models are tested: a capture takes longer than what it is for.

Where a test is about splits, the capture of a model is the same for every number of stages, as
``Captures.cut_by`` relies on too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import nn

from autopipe.ir.structure import Structure
from autopipe.ir.traced import TracedModel
from autopipe.trace import capture, signature_of

CALLERS = ("autopipe.api", "autopipe.captures")


@contextmanager
def captured_once() -> Iterator[None]:
    """Capture a model once for each signature and each set of shapes that it is called with."""
    known: list[tuple[nn.Module, Any, TracedModel]] = []

    def kept(model: nn.Module, args: Any, kwargs: Any, **options: Any) -> TracedModel:
        opaque = options.pop("opaque")
        whole = [fqn for fqn, _ in model.named_modules() if opaque(fqn)]
        shapes = [tuple(hole.shape) for hole in Structure.of((args, kwargs))[1]]
        key = (signature_of(model, args, kwargs), shapes, whole, options)
        for other, its_key, traced in known:
            if other is model and its_key == key:
                return traced
        traced = capture(model, args, kwargs, opaque=opaque, **options)
        known.append((model, key, traced))
        return traced

    with (
        mock.patch.object(importlib.import_module(CALLERS[0]), "capture", kept),
        mock.patch.object(importlib.import_module(CALLERS[1]), "capture", kept),
    ):
        yield
