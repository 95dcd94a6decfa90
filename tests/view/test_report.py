"""The page: one file, well-formed, loads nothing, and cannot be broken out of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files

import pytest

from autopipe.ir.plan import Plan
from autopipe.view import report_html
from tests.view import plans
from tests.view.markup import page
from tests.view.test_gantt import predicted

PLANS: dict[str, Callable[[], Plan]] = {
    "gpt": lambda: plans.gpt(8, 4, 8),
    "one_stage": lambda: plans.gpt(2, 1, 1),
    "unet": plans.unet,
    "unet_small_form": lambda: plans.unet().small(),
    "hostile": plans.hostile,
}
every_plan = pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)


@every_plan
def test_page_is_well_formed_and_loads_nothing(make: Callable[[], Plan]) -> None:
    plan = make()
    found = page(report_html(plan, predicted(plan)))
    assert not {
        tag for tag in found.tags if tag in {"link", "img", "iframe", "object", "embed", "a", "image", "use"}
    }
    assert [
        (tag, name) for tag, name, _ in found.attributes if name in {"src", "href", "xlink:href", "data"}
    ] == []
    assert [name for _, name, _ in found.attributes if name.startswith("on")] == []
    assert any("default-src 'none'" in value for _, name, value in found.attributes if name == "content")
    assert found.tags.count("script") == len(found.scripts) == 3


@every_plan
def test_data_of_the_graph_reads_back(make: Callable[[], Plan]) -> None:
    plan = make()
    data = json.loads(page(report_html(plan, predicted(plan))).scripts[0])
    assert [node[0] for node in data["nodes"]] == list(plan.partition.stage_of)
    assert [node[2] for node in data["nodes"]] == list(plan.partition.stage_of.values())
    assert len(data["stages"]) == plan.n_stages
    assert {node[3] for node in data["nodes"]} == set(range(len(data["boxes"])))


def test_page_has_no_address_to_fetch() -> None:
    plan = plans.unet()
    text = report_html(plan, predicted(plan))
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert "sourceMappingURL" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_names_cannot_end_a_script_or_a_tag() -> None:
    plan = plans.hostile()
    text = report_html(plan, predicted(plan))
    found = page(text)
    assert "alert(1)" not in "".join(found.scripts[1:])
    nodes = json.loads(found.scripts[0])["nodes"]
    assert any("</script><script>alert(1)</script>" in node[4] for node in nodes)
    assert "\x00" not in text
    text.encode("utf-8")


def test_page_says_what_the_summary_says() -> None:
    plan = plans.gpt(8, 4, 8)
    words = " ".join(page(report_html(plan, predicted(plan))).words)
    for word in (
        "132.1 ms",
        "12.9 ms",
        "lower bound 12.5 ms",
        "37 %",
        "16.1 ms (+25 %)",
        "h.2 ... h.3",
        "made up",
    ):
        assert word in words
    assert "step, predicted" in words
    assert "step, measured" in " ".join(page(report_html(plan, predicted(plan), is_measured=True)).words)


def test_layout_library_is_the_one_that_was_published() -> None:
    library = files("autopipe.view").joinpath("assets", "dagre-3.1.3.min.js").read_bytes()
    published = "54a503e346f93ca0bb10abe7999587e037262935687aca45eb4e4b0f64bbb578"
    assert hashlib.sha256(library).hexdigest() == published
    plan = plans.gpt(2, 1, 1)
    assert "Copyright (c) 2012-2014 Chris Pettitt" in report_html(plan, predicted(plan))
    assert library.count(b"</script") == 0
