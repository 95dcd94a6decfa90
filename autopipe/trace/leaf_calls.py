"""What a call of a module does during capture: a leaf becomes one node, a container is seen through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from autopipe.trace.leaves import why_leaf
from autopipe.trace.modes import Interception
from autopipe.trace.recorder import Recorder
from autopipe.trace.source import line_of_error
from autopipe.trace.stand_in import DEPENDS_ON_DATA, fake_results_of_module


class LeafCalls:
    """Decides about each call of a module, and records the leaves.

    A container that raises is tried again as one node: the smallest module that cannot be seen through is kept whole,
    and its parents are not.

    Args:
        model: The model.
        recorder: Writes the graph.
        opaque: Says of a module's FQN whether the user wants it whole.
    """

    interception: Interception

    def __init__(self, model: nn.Module, recorder: Recorder, opaque: Callable[[str], bool]) -> None:
        """Number the modules; one under two names goes by the first."""
        self._root, self._recorder, self._opaque = model, recorder, opaque
        self._fqn = {id(module): fqn for fqn, module in model.named_modules()}

    def run_root(self, args: Any, kwargs: Any) -> Any:
        """Run the model's forward."""
        return self._root.forward(*args, **kwargs)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call a module that the model's Python calls."""
        fqn = self._fqn.get(id(module))
        if fqn is None or module is self._root:
            return module.forward(*args, **kwargs)
        reason = "opaque= names it" if self._opaque(fqn) else why_leaf(module)
        if reason is not None:
            return self._leaf(fqn, module, args, kwargs, reason)
        mark = self._recorder.mark()
        self._recorder.modules.append(fqn)
        try:
            return module.forward(*args, **kwargs)
        except Exception as error:
            why = _reason(error)
            failed = error
        finally:
            self._recorder.modules.pop()
        self._recorder.rewind(mark)
        return self._leaf(fqn, module, args, kwargs, why, failed)

    def _leaf(
        self,
        fqn: str,
        module: nn.Module,
        args: Any,
        kwargs: Any,
        reason: str,
        failed: Exception | None = None,
    ) -> Any:
        with self.interception.inside():
            parameters, buffers = self._recorder.owned(module)
            return self._recorder.call(
                "call_module",
                fqn,
                args,
                kwargs,
                lambda: self._forward(module, args, kwargs, failed),
                keep=True,
                fqn=fqn,
                opaque_because=reason,
                parameters=tuple(parameters),
                buffers=tuple(buffers),
                own_buffers=buffers,
            )

    def _forward(self, module: nn.Module, args: Any, kwargs: Any, failed: Exception | None) -> Any:
        if failed is None:
            try:
                return module.forward(*args, **kwargs)
            except Exception as error:
                failed = error
        self._recorder.is_random = True
        return fake_results_of_module(failed, module, args, kwargs, self._recorder)


def _reason(error: Exception) -> str:
    """Say why a container is kept whole, from what its forward raised on fake tensors."""
    what = (
        "it depends on data"
        if isinstance(error, DEPENDS_ON_DATA)
        else (str(error).strip().splitlines() or [""])[0]
    )
    where = line_of_error(error.__traceback__)
    return f"{what} {where}".strip()
