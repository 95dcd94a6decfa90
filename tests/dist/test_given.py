"""What each rank gives of the arguments of a call becomes the whole, or a clear difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autopipe.errors import PlanMismatchError
from autopipe.runtime.given import completed, described, merged

IDS, LABELS = torch.arange(6).reshape(2, 3), torch.ones(2, requires_grad=True)


def whole_of(*values: Any) -> Any:
    return merged([described(value) for value in values])


def test_each_rank_gets_its_own_tensors_and_stand_ins_for_the_rest() -> None:
    first, second = ((IDS, None), {"scale": 2}), ((None, LABELS), {"scale": 2})
    whole = whole_of(first, second)
    ((ids, labels), options), stand_ins = completed(whole, first)
    assert ids is IDS
    assert stand_ins == [labels]
    assert (labels.shape, labels.dtype, labels.requires_grad) == (LABELS.shape, LABELS.dtype, True)
    assert options == {"scale": 2}
    ((ids, labels), _), _ = completed(whole, second)
    assert labels is LABELS
    assert ids.shape == IDS.shape


def test_a_keyword_that_one_rank_leaves_out_is_given() -> None:
    whole = whole_of(((IDS,), {}), ((IDS,), {"labels": {"a": LABELS}}))
    (_, keywords), stand_ins = completed(whole, ((IDS,), {}))
    assert keywords["labels"]["a"] is stand_ins[0]


def test_what_nobody_gives_stays_none() -> None:
    whole = whole_of((IDS, None), (None, None))
    assert completed(whole, (None, None))[0][1] is None


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ((IDS,), (IDS[:1],), r"\[0\]\.\n  int64\[2, 3\] on rank 0, int64\[1, 3\] on rank 1"),
        ((IDS,), (IDS.int(),), "int64.* on rank 0, int32"),
        ((LABELS,), (LABELS.detach(),), "requires_grad on rank 0"),
        ({"scale": 2}, {"scale": 3}, r"\['scale'\]\.\n  2 on rank 0, 3 on rank 1"),
        ((IDS, IDS), (IDS,), "all of them"),
        ((IDS,), (2,), "2 on rank 1"),
    ],
)
def test_a_difference_is_named(one: Any, other: Any, text: str) -> None:
    with pytest.raises(PlanMismatchError, match=text):
        whole_of(one, other)
