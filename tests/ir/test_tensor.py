"""Shapes over symbolic sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopipe.errors import ArgumentError
from autopipe.ir.tensor import SizeExpression, TensorSpec, evaluate_size

SIZES = {"B": 3, "L": 8}


@pytest.mark.parametrize(
    ("size", "value"),
    [(5, 5), ("B", 3), ("B*L", 24), ("B*(L - 1)", 21), ("(L + 1)//2", 4), ("max(B, L)", 8), ("L % B", 2)],
)
def test_sizes_are_python(size: int | str, value: int) -> None:
    assert evaluate_size(size, SIZES) == value
    if isinstance(size, str):
        assert SizeExpression(size)(**SIZES) == value


def test_unknown_size_is_explained() -> None:
    with pytest.raises(ArgumentError, match=r"the size 'S' cannot be computed.*\n.*\n.*Try: give it"):
        evaluate_size("S", SIZES)


def test_bytes_follow_shape_and_dtype() -> None:
    assert TensorSpec(("B", 4), "bfloat16").nbytes(SIZES) == 24
    assert TensorSpec((), "int64").nbytes({}) == 8
    assert TensorSpec((3,), "quint4x2").nbytes({}) == 2


@given(st.lists(st.integers(0, 9) | st.just("B"), max_size=4), st.sampled_from(["float32", "int64", "bool"]))
def test_spec_survives_json(shape: list[int | str], dtype: str) -> None:
    spec = TensorSpec(tuple(shape), dtype, requires_grad=dtype == "float32")
    spec.verify()
    assert TensorSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("spec", "text"),
    [(TensorSpec((2,), "float31"), "unknown dtype 'float31'"), (TensorSpec((2, -1), "float32"), "size -1")],
)
def test_wrong_specs_are_named(spec: TensorSpec, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        spec.verify()


def test_specs_print_short() -> None:
    assert str(TensorSpec(("B", 4), "bfloat16")) == "bf16[B, 4]"
