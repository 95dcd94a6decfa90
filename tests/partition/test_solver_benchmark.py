"""The benchmark of the solver reads any folder of graphs and writes rows that can be checked without it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from autopipe.partition import Objective, compile_problem, solve
from autopipe.partition.baselines import layer_list
from tests.benchmarks import solver_graphs
from tests.benchmarks.graph_formats import PublicProblem, read_folder
from tests.benchmarks.graph_shapes import experts, towers, transformer
from tests.benchmarks.layer_peers import LayerPeers

TIMES = {0: 0.0, 1: 2.0, 2: 3.0, 3: 1.0, 4: 4.0}
EDGES = [(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)]


def write_fx(folder: Path) -> None:
    nodes = [
        {
            "id": i,
            "name": f"n{i}",
            "op": "call" if i else "placeholder",
            "target": "t",
            "time_fw_ms": ms,
            "flops": 0,
            "out_bytes": 500,
            "params": [],
            "param_bytes": 0,
        }
        for i, ms in TIMES.items()
    ]
    text = json.dumps({"nodes": nodes, "edges": EDGES, "link_bytes_per_s": 1e6})
    (folder / "small.json.gz").write_bytes(gzip.compress(text.encode()))


def write_device_placement(folder: Path) -> None:
    nodes = [
        {"id": i, "fpgaLatency": ms, "size": 1, "isBackwardNode": 0, "colorClass": None}
        for i, ms in TIMES.items()
    ]
    edges = [{"sourceId": a, "destId": b, "cost": 1.0} for a, b in EDGES]
    data = {"maxFPGAs": 2, "maxSizePerFPGA": 100, "nodes": nodes, "edges": edges}
    (folder / "placed.json").write_text(json.dumps(data))


def write_pipedream(folder: Path) -> None:
    node = (
        "node{i} -- op -- forward_compute_time={ms}, backward_compute_time={ms}, "
        "activation_size=1000.0, parameter_size=8.0"
    )
    lines = [node.format(i=i, ms=ms) for i, ms in TIMES.items()]
    lines += [f"\tnode{a} -- node{b}" for a, b in EDGES]
    (folder / "profile.txt").write_text("\n".join(lines))


def test_any_folder_gives_rows_that_hold_on_the_raw_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for write in (write_fx, write_device_placement, write_pipedream):
        write(tmp_path)
    out = tmp_path / "out" / "rows"
    out.parent.mkdir()
    solver_graphs.main(["--graphs", str(tmp_path), "--json", str(out)])
    rows = {(row["graph"], row["k"]): row for row in json.loads(out.read_text())}
    assert list(rows) == [("placed", 2), ("profile", 4), ("profile", 8), *(("small", k) for k in (4, 8, 16))]
    for row in rows.values():
        assert {"bottleneck_ms", "lower_bound_ms", "seconds", "stage_of"} <= row.keys()
    row = rows["small", 4]
    stage = {int(node): s for node, s in row["stage_of"].items()}
    assert all(stage[a] <= stage[b] for a, b in EDGES)
    load = dict.fromkeys(range(4), 0.0)
    for node, ms in TIMES.items():
        load[stage[node]] += 3 * ms
        readers = {stage[b] for a, b in EDGES if a == node} - {stage[node]}
        if node and readers:  # what the placeholder makes is free; 500 bytes twice at 1e6 bytes/s is 1 ms
            for s in {stage[node], *readers}:
                load[s] += 1.0
    assert row["bottleneck_ms"] == pytest.approx(max(load.values()))
    assert row["lower_bound_ms"] == pytest.approx(row["bottleneck_ms"])
    assert "| small | 5 | 16 |" in capsys.readouterr().out


def test_what_a_file_holds_says_which_format_it_is(tmp_path: Path) -> None:
    for write in (write_fx, write_device_placement, write_pipedream):
        write(tmp_path)
    unpacked = gzip.decompress((tmp_path / "small.json.gz").read_bytes())
    packed = {name: gzip.compress((tmp_path / name).read_bytes()) for name in ("placed.json", "profile.txt")}
    for path in tmp_path.iterdir():
        path.unlink()
    (tmp_path / "a.v2.json").write_bytes(unpacked)
    (tmp_path / "b.json.gz").write_bytes(packed["placed.json"])
    (tmp_path / "c.txt.gz").write_bytes(packed["profile.txt"])
    (tmp_path / "d").write_bytes(unpacked)
    (tmp_path / "README.md").write_text("What these are.")
    (tmp_path / "other.json").write_text("[1, 2]")
    found = [(problem.name, problem.kind, len(problem.graph)) for problem in read_folder(tmp_path)]
    assert found == [("a.v2", "fx", 5), ("b", "device placement", 5), ("c", "pipedream", 5), ("d", "fx", 5)]


def test_functions_of_other_packages_are_called_without_what_else_their_files_need(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed" / "runtime" / "utils.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import nowhere\n\ndef partition_balanced(weights, n):\n    return [0, 1, len(weights)]\n"
    )
    problem = towers(1)
    objective = Objective(problem.graph, problem.hardware, 2)
    costs = LayerPeers(tmp_path).costs(objective, compile_problem(objective, allow_empty=True))
    stage_of = {name: int(at > 0) for at, layer in enumerate(layer_list(objective, 2)) for name in layer}
    names = list(problem.graph.graph)
    priced = objective.price_all({names[at]: stage for at, stage in stage_of.items()})
    assert costs == {"torchgpipe": None, "deepspeed": max(stage.total_ms for stage in priced)}


def test_long_and_wide_shapes_are_proven_optimal() -> None:
    for problem, k in ((transformer(4), 4), (experts(16, 4), 4), (towers(3), 4)):
        certificate = solve(problem.graph, k, hardware=problem.hardware, **problem.options).certificate
        assert certificate.stopped_by == "optimal", problem.name


@pytest.mark.parametrize(("problem", "k"), [(towers(6), 8), (experts(24, 1), 4)], ids=["towers", "experts"])
def test_a_budget_ends_the_search_and_what_is_proven_stands(problem: PublicProblem, k: int) -> None:
    answers = [
        solve(problem.graph, k, hardware=problem.hardware, budget=10_000, **problem.options) for _ in range(2)
    ]
    certificate = answers[0].certificate
    assert certificate.stopped_by == "work budget"
    assert 0 < certificate.lower_bound_ms < certificate.bottleneck_ms
    assert answers[0] == answers[1]
