"""What the tests compare by sees what must not differ."""

from __future__ import annotations

import pytest
import torch

from tests.plain_training import assert_bitwise, assert_close

ONES = torch.ones(3)


def test_what_is_no_number_is_not_close() -> None:
    broken = torch.tensor([1.0, float("nan"), 1.0])
    for found, expected in ((broken, ONES), (ONES, broken)):
        with pytest.raises(AssertionError, match="nan"):
            assert_close([found], [expected])
    assert_close([ONES * (1 + 5e-6)], [ONES])


def test_numbers_of_another_type_are_not_the_same_bits() -> None:
    assert_bitwise([ONES], [ONES.clone()])
    with pytest.raises(AssertionError):
        assert_bitwise([ONES.double()], [ONES])
