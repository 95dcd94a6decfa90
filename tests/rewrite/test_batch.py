"""Batches fall into microbatches like tensor_split, and outputs come together again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autopipe.errors import ArgumentError
from autopipe.rewrite.batch import batch_size, guessed_dims, merge, split
from autopipe.trace import capture


@given(st.integers(1, 40), st.integers(1, 40))
def test_sizes_differ_by_at_most_one_and_nothing_is_lost(n_samples: int, n_wished: int):
    n = min(n_samples, n_wished)
    whole = torch.arange(n_samples)
    parts = [row[0] for row in split([whole], [0], n)]
    assert torch.equal(torch.cat(parts), whole)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_only_what_is_as_long_as_the_first_tensor_is_taken_for_a_batch():
    tensors = [torch.ones(4, 3), torch.ones(3), torch.ones(()), torch.ones(4)]
    assert guessed_dims(tensors) == [0, None, None, 0]
    assert guessed_dims([]) == []


def test_disagreeing_tensors_are_named_with_their_sizes():
    with pytest.raises(ArgumentError, match=r"ids has 8, mask has 6") as caught:
        batch_size([torch.ones(8), torch.ones(6)], [0, 0], ["ids", "mask"])
    assert 'batch_dims={"mask": None}' in caught.value.remedy


def test_a_missing_dimension_and_an_empty_batch_are_errors():
    with pytest.raises(ArgumentError, match="mask has 1 dimensions"):
        batch_size([torch.ones(8)], [1], ["mask"])
    with pytest.raises(ArgumentError, match="no samples"):
        batch_size([torch.ones(0, 3)], [0], ["x"])


class Many(nn.Module):
    """Batch first, batch second, batch folded into another size, a scalar, an int scalar, no batch at all."""

    def forward(self, x: Tensor) -> tuple[object, ...]:
        return (
            x * 2,
            x.t().contiguous() + 0,
            x.reshape(-1) + 1,
            x.mean(),
            x.sum().long(),
            torch.arange(3),
            x.shape[0],
        )


def test_every_kind_of_output_is_merged():
    x = torch.arange(20.0).reshape(5, 4)
    traced = capture(Many(), (x,))
    parts = [row[0] for row in split([x], [0], 2)]
    outputs = [Many()(part) for part in parts]
    merged = merge(traced, [list(out) for out in outputs], [3 / 5, 2 / 5])
    expected = Many()(x)
    for index in (0, 1, 2, 3, 5):
        torch.testing.assert_close(merged[index], expected[index])
    assert merged[4] == outputs[-1][4]
    assert merged[6] == 2
