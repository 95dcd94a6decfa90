"""How other packages cut a list of layers: their own functions, from where they are installed.

::

    python -m venv /tmp/peers && /tmp/peers/bin/pip install --no-deps torchgpipe==0.0.7 deepspeed==0.19.8
    python tests/benchmarks/solver_graphs.py --peers /tmp/peers/lib/python3.11/site-packages

Both packages need others to be imported whole, so the one function is taken from its file:

    torchgpipe   ``torchgpipe.balance.blockpartition.solve``, by the times of layers
    DeepSpeed    ``deepspeed.runtime.utils.partition_balanced``, by the parameters of layers
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

from autopipe.errors import PartitionError
from autopipe.partition import Objective
from autopipe.partition.baselines import cut_layers, layer_list
from autopipe.partition.problem import Problem

FILES = {
    "torchgpipe": ("torchgpipe/balance/blockpartition.py", ("solve",)),
    "deepspeed": ("deepspeed/runtime/utils.py", ("partition_uniform", "partition_balanced")),
}
"""File and functions of each package; the last is the one that is called."""

NAMES = tuple(FILES)
MOST_STEPS = 3e7
"""DeepSpeed's loops in Python go layers x layers x stages / 2 times: half a minute; 5,129 x 64 take hours."""


class LayerPeers:
    """The packages that are there.

    Args:
        folder: A folder of installed packages, or None.
    """

    def __init__(self, folder: Path | None) -> None:
        """Take the functions from their files."""
        self.functions: dict[str, Callable[..., Any]] = {}
        for name, (file, functions) in FILES.items():
            if folder is not None and (folder / file).is_file():
                self.functions[name] = taken(folder / file, functions)

    def costs(self, objective: Objective, problem: Problem) -> dict[str, float | None]:
        """What each one's cut costs by our prices.

        Args:
            objective: The prices.
            problem: The items of the same graph.

        Returns:
            Bottlenecks, milliseconds; None where a package is not there, or the layers are too few or many.
        """
        nodes, k = objective.nodes[0], problem.k
        layers = layer_list(objective, k)
        times = [sum(nodes[i].compute_ms for i in layer) for layer in layers]
        sizes = [float(sum(nodes[i].param_bytes for i in layer)) for layer in layers]
        cuts: dict[str, list[int]] = {}
        if "torchgpipe" in self.functions and len(layers) >= k:
            parts = self.functions["torchgpipe"](times, k)
            cuts["torchgpipe"] = [0, *accumulate(len(part) for part in parts)]
        n_deepspeed_steps = len(layers) ** 2 * k // 2
        if "deepspeed" in self.functions and len(layers) >= k and n_deepspeed_steps <= MOST_STEPS:
            cuts["deepspeed"] = [int(cut) for cut in self.functions["deepspeed"](sizes, k)]
        costs: dict[str, float | None] = dict.fromkeys(NAMES)
        for name, borders in cuts.items():
            try:
                partition = cut_layers(objective, problem, layers, borders, name)
            except PartitionError:
                continue
            costs[name] = partition.certificate.bottleneck_ms
        return costs


def taken(path: Path, names: tuple[str, ...]) -> Callable[..., Any]:
    """The last of some functions of a file, without importing what else the file needs."""
    tree = ast.parse(path.read_text())
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    kept.insert(0, *ast.parse("from typing import Iterator, List, Tuple").body)
    scope: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), str(path), "exec"), scope)
    function: Callable[..., Any] = scope[names[-1]]
    return function
