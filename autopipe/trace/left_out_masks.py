"""Attention masks that transformers leaves out where no position is padding, which depends on values.

Without a mask an attention goes by its own ``is_causal``. On tensors without values transformers makes the
mask always. The two are the same where the attention is causal as its mask is, and else they are not::

    attention_mask     mask of a decoder     attention with is_causal = False, such as PaliGemma's
    of ones            left out              every position reads all
    with a zero        causal                every position reads those before it

So where an attention and its mask disagree, the graph asks in every run what transformers asks unsplit.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

_ATTENTION = "sdpa"
_SIZES = ("q_length", "kv_length", "q_offset", "kv_offset")
_GIVEN = ("attention_mask", "local_size", "allow_is_causal_skip", "allow_is_bidirectional_skip")
_PATTERNS = ("or_mask_function", "and_mask_function", "block_sequence_ids")
"""What ``create_causal_mask`` is given for a mask that is never left out."""
_READ = ("module", "query", "attention_mask", "is_causal")

Record = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class IsLeftOut:
    """Asks transformers, in a run, whether it leaves out a mask.

    Args:
        question: Function of transformers that returns a bool, False on tensors without values.
    """

    def __init__(self, question: Callable[..., bool]) -> None:
        """Keep the question."""
        self.question = question
        self.__name__ = self.__qualname__ = "is_left_out"
        self.__module__ = __name__

    def __call__(self, padding: torch.Tensor, *sizes: Any) -> torch.Tensor:
        """Return the answer, a bool tensor of no dimensions."""
        return padding.new_full((), bool(self.question(padding, *sizes)), dtype=torch.bool)


@dataclass(frozen=True, slots=True)
class _Mask:
    """A mask that transformers may leave out.

    Args:
        tensor: The mask.
        is_causal: Whether it is one of a decoder.
        left_out: Records whether a run leaves it out.
    """

    tensor: torch.Tensor
    is_causal: bool
    left_out: Callable[[], torch.Tensor]


class _Masks:
    """The masks of one capture.

    Args:
        utils: The module of transformers that makes masks.
        record: Records a call of a function.
        is_inside: Whether a leaf is running, of which nothing is recorded.
    """

    def __init__(self, utils: Any, record: Record, is_inside: Callable[[], bool]) -> None:
        self._utils, self._record, self._is_inside = utils, record, is_inside
        self._known: dict[int, _Mask] = {}
        self._chosen: dict[tuple[int, bool], torch.Tensor] = {}

    def noting(self, make: Callable[..., Any]) -> Callable[..., Any]:
        """Return a maker of masks that remembers which of them may be left out."""
        parameters = inspect.signature(make)

        def made(*args: Any, **kwargs: Any) -> Any:
            mask = make(*args, **kwargs)
            if isinstance(mask, torch.Tensor) and not self._is_inside():
                given = parameters.bind(*args, **kwargs)
                given.apply_defaults()
                found = self._question(mask, given.arguments, sys._getframe(1).f_locals)
                if found:
                    self._known[id(mask)] = found
            return mask

        return made

    def _question(self, mask: torch.Tensor, given: dict[str, Any], caller: dict[str, Any]) -> _Mask | None:
        """Return the mask with what a run has to ask for it, if it is ever left out."""
        utils, padding = self._utils, given["attention_mask"]
        sizes = [given[name] for name in _SIZES]
        packed = caller.get("packed_sequence_mask")
        if packed is not None:
            has_pattern = any(caller.get(name) is not None for name in _PATTERNS)
            if has_pattern or not utils._ignore_causal_mask_sdpa(None, *sizes, given["local_size"]):
                return None

            def is_one_sequence() -> torch.Tensor:
                answer: torch.Tensor = (packed[:, -1] == 0).all()
                return answer

            return _Mask(mask, True, is_one_sequence)
        if padding is None:
            return None
        if given["allow_is_causal_skip"]:
            question, asked = utils._ignore_causal_mask_sdpa, [*sizes, given["local_size"]]
        elif given["allow_is_bidirectional_skip"]:
            question, asked = utils._ignore_bidirectional_mask_sdpa, [given["kv_length"], given["local_size"]]
        else:
            return None

        def left_out() -> torch.Tensor:
            padded = utils.prepare_padding_mask(padding, given["kv_length"], given["kv_offset"])
            answer: torch.Tensor = self._record(IsLeftOut(question), (padded, *asked), {})
            return answer

        return _Mask(mask, bool(given["allow_is_causal_skip"]), left_out)

    def choosing(self, attend: Callable[..., Any]) -> Callable[..., Any]:
        """Return an attention that takes the mask which the model has unsplit."""
        parameters = inspect.signature(attend)

        def attention(*args: Any, **kwargs: Any) -> Any:
            bound = parameters.bind(*args, **kwargs)
            given = bound.arguments
            known = None if self._is_inside() else self._known.get(id(given["attention_mask"]))
            if known:
                asked = given.get("is_causal")
                is_causal = bool(getattr(given["module"], "is_causal", True) if asked is None else asked)
                if is_causal != known.is_causal:
                    is_causal = is_causal and bool(given["query"].shape[2] > 1)
                    given["attention_mask"] = self._choice(known, is_causal=is_causal)
            return attend(*bound.args, **bound.kwargs)

        return attention

    def _choice(self, mask: _Mask, *, is_causal: bool) -> torch.Tensor:
        """Return the mask, or what the attention does without one where a run leaves it out."""
        key = id(mask.tensor), is_causal
        if key not in self._chosen:
            without = torch.ones_like(mask.tensor)
            without = without.tril() if is_causal else without
            self._chosen[key] = torch.where(mask.left_out(), without, mask.tensor)
        return self._chosen[key]


@contextmanager
def masks_as_unsplit(record: Record, is_inside: Callable[[], bool]) -> Iterator[None]:
    """Let the attentions of transformers have inside the masks that they have on values.

    Args:
        record: Records a call of a function.
        is_inside: Whether a leaf is running, of which nothing is recorded.
    """
    utils, modeling = (
        sys.modules.get(f"transformers.{name}") for name in ("masking_utils", "modeling_utils")
    )
    makers = getattr(getattr(utils, "ALL_MASK_ATTENTION_FUNCTIONS", None), "_global_mapping", {})
    attentions = getattr(getattr(modeling, "ALL_ATTENTION_FUNCTIONS", None), "_global_mapping", {})
    if not (_takes_as_known(attentions.get(_ATTENTION)) and _makes_as_known(makers.get(_ATTENTION))):
        yield
        return
    masks, make, attend = _Masks(utils, record, is_inside), makers[_ATTENTION], attentions[_ATTENTION]
    makers[_ATTENTION], attentions[_ATTENTION] = masks.noting(make), masks.choosing(attend)
    try:
        yield
    finally:
        makers[_ATTENTION], attentions[_ATTENTION] = make, attend


def _makes_as_known(make: Any) -> bool:
    """Whether a maker of masks leaves them out as the transformers does that this was written for."""
    return _is_transformers(make) and {*_SIZES, *_GIVEN} <= inspect.signature(make).parameters.keys()


def _takes_as_known(attend: Any) -> bool:
    """Whether an attention is given its mask as by the transformers that this was written for."""
    return _is_transformers(attend) and {*_READ} <= inspect.signature(attend).parameters.keys()


def _is_transformers(function: Any) -> bool:
    """Whether a function is transformers' own, and none that a user has registered in its place."""
    return str(getattr(function, "__module__", "")).startswith("transformers.")
