"""What a call of a module does during capture: a leaf becomes one node, a container is seen through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from autopipe.trace.leaves import why_leaf
from autopipe.trace.modes import Interception
from autopipe.trace.recorder import LeafUse, Recorder
from autopipe.trace.source import line_of_error
from autopipe.trace.stand_in import DEPENDS_ON_DATA, fake_results_of_module


class LeafCalls:
    """Decides about each call of a module, and records the leaves.

    A container that raises runs on as one node, and is noted in ``found``: the smallest module that cannot
    be seen through is kept whole, its parents are not. What its first try changed (a cache that it was
    given) is changed twice by then, so that the capture has to start again, knowing what was found.

    Args:
        model: The model.
        recorder: Writes the graph.
        opaque: Says of a module's FQN whether the user wants it whole.
        whole: Containers that cannot be seen through, and why: found by earlier attempts.
    """

    interception: Interception

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        opaque: Callable[[str], bool],
        whole: Mapping[str, str],
    ) -> None:
        """Number the modules; one under two names goes by the first."""
        self._root, self._recorder, self._opaque, self._whole = model, recorder, opaque, whole
        self._fqn = {id(module): fqn for fqn, module in model.named_modules()}
        self.found: dict[str, str] = {}

    def run_root(self, args: Any, kwargs: Any) -> Any:
        """Run the model's forward."""
        return self._root.forward(*args, **kwargs)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call a module that the model's Python calls."""
        fqn = self._fqn.get(id(module))
        if fqn is None or module is self._root:
            return module.forward(*args, **kwargs)
        reason = self._why_whole(fqn, module)
        if reason is not None:
            return self._leaf(fqn, module, args, kwargs, reason)
        modules = self._recorder.program.modules
        modules.append(fqn)
        try:
            return module.forward(*args, **kwargs)
        except Exception as error:
            self.found[fqn] = _reason(error)
        finally:
            modules.pop()
        return self._leaf(fqn, module, args, kwargs, self.found[fqn])

    def _why_whole(self, fqn: str, module: nn.Module) -> str | None:
        if self._opaque(fqn):
            return "opaque= names it"
        return self._whole.get(fqn) or why_leaf(module)

    def _leaf(self, fqn: str, module: nn.Module, args: Any, kwargs: Any, reason: str) -> Any:
        def run() -> Any:
            try:
                return module.forward(*args, **kwargs)
            except Exception as error:
                self._recorder.is_random = True
                return fake_results_of_module(error, module, args, kwargs, self._recorder)

        with self.interception.inside():
            parameters, buffers = self._recorder.values.owned_by(module)
            use = LeafUse(tuple(parameters), buffers, reason)
            return self._recorder.call_module(fqn, args, kwargs, run, use)


def _reason(error: Exception) -> str:
    """Say why a container is kept whole, from what its forward raised on fake tensors."""
    if isinstance(error, DEPENDS_ON_DATA):
        what = "it depends on data"
    else:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{what} {line_of_error(error.__traceback__)}".strip()
