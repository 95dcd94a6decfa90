"""``autopipe doctor``."""

from __future__ import annotations

from tests.cli.running import EXAMPLE, MODEL, complaint, data, run

HERE = "tests.cli.small_model"


def test_a_model_without_findings_is_told_so() -> None:
    text = run("doctor", *MODEL).stdout
    assert text.splitlines() == [
        "Blocks: captured as 9 nodes, 5 modules kept whole",
        " x: f32[B, 8]",
        " open sizes: B",
        " nothing stands in the way of a split",
    ]


def test_an_opaque_module_is_named_with_line_and_remedy() -> None:
    (finding,) = data("doctor", f"{HERE}:routed", "--example", EXAMPLE)["findings"]
    assert (finding["kind"], finding["subject"]) == ("opaque", "router")
    assert "small_model.py:" in finding["where"]
    assert "if x.sum() > 0" in finding["where"]
    assert "torch.where" in finding["remedy"]


def test_what_cannot_be_captured_ends_with_2_and_says_where() -> None:
    text = complaint("doctor", f"{HERE}:branching", "--example", EXAMPLE)
    assert "if x.sum() > 0" in text


def test_fixed_sizes_conditions_and_shared_writes_are_found() -> None:
    kinds = {
        name: {
            finding["kind"]
            for finding in data("doctor", f"models.{name}:build", "--example", f"models.{name}:example")[
                "findings"
            ]
        }
        for name in ("lstm", "tied_lm")
    }
    assert kinds["lstm"] == {"fixed size", "condition"}
    assert "one stage" in kinds["tied_lm"]
