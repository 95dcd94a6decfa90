"""Plans made by hand: models as lists of priced nodes, cut where the test says.

``Builder`` prices the stages itself, by the plain rules: sums over the nodes, messages of what crosses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autopipe.ir.action import Transfer
from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam
from autopipe.ir.fingerprint import Fingerprint
from autopipe.ir.hardware import Device, Hardware, Link
from autopipe.ir.partition import Certificate, Partition, StageCost
from autopipe.ir.plan import Plan
from autopipe.schedule import build
from autopipe.schedule.predict import predict

MIB = 2**20
GPU = Device("gpu", {"float32": 2e13}, 1e12, 16 * 2**30, 0.005, "made up for the tests")
HARDWARE = Hardware("testbench", (GPU,), (Link("wire", 25e9, 0.01, "made up for the tests"),), overlap=True)


@dataclass
class Builder:
    """Collects nodes in program order; each call names the nodes that it reads."""

    model: str
    nodes: list[CostNode] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    tied: list[TiedParam] = field(default_factory=list)

    def op(
        self,
        fqn: str,
        op: str,
        *reads: str,
        ms: float = 0.0,
        mib: float = 1.0,
        params_mib: float = 0.0,
        grad: bool = True,
    ) -> str:
        """Add one operation of a module's forward ("" is the model), or with op "@" the module as a whole."""
        name = re.sub(r"\W", "_", fqn if op == "@" else f"{fqn}.{op}" if fqn else op)
        while name in self.keys:
            name += "_1"
        out_bytes, param_bytes = int(mib * MIB), int(params_mib * MIB)
        back = (ms, ms if params_mib else 0.0) if grad else (0.0, 0.0)
        node = CostNode(
            name, fqn, ms, *back, out_bytes, out_bytes if grad else 0, param_bytes, out_bytes if grad else 0
        )
        self.nodes.append(node)
        self.keys[name] = f"{fqn}|{f'@{fqn}' if op == '@' else op}|0"
        self.edges += [(maker, name) for maker in dict.fromkeys(reads)]
        return name

    def plan(
        self,
        stage_of: Callable[[CostNode], int],
        n_microbatches: int,
        *,
        n_ranks: int | None = None,
        baselines: Mapping[str, float] | None = None,
        lower_bound: float = 0.97,
        notes: tuple[str, ...] = (),
        schedule: str = "1f1b",
    ) -> Plan:
        """Cut and price; ``lower_bound`` is a share of the bottleneck."""
        graph = CostGraph.build(self.nodes, self.edges, tied=self.tied)
        stages = {node.name: stage_of(node) for node in self.nodes}
        n_stages = max(stages.values()) + 1
        transfers = self.transfers(stages)
        costs = tuple(
            self.stage_cost(s, n_stages, n_microbatches, stages, transfers) for s in range(n_stages)
        )
        bottleneck = max(cost.total_ms for cost in costs)
        ranks = tuple(stage % (n_ranks or n_stages) for stage in range(n_stages))
        plan = Plan(
            fingerprint=Fingerprint(
                self.model,
                tuple(
                    (f"{n.fqn}.weight", (n.param_bytes // 4,), "float32") for n in self.nodes if n.param_bytes
                ),
            ),
            hardware=HARDWARE,
            cost_source="roofline",
            keys=dict(self.keys),
            fqns=tuple(
                tuple(dict.fromkeys(n.fqn for n in self.nodes if n.fqn and stages[n.name] == s))
                for s in range(n_stages)
            ),
            partition=Partition(
                stages,
                ranks,
                costs,
                Certificate(
                    "chain DP over the program order", bottleneck, lower_bound * bottleneck, "orders tried"
                ),
            ),
            baselines={"uniform layers": 1.25 * bottleneck, "by parameters": 1.5 * bottleneck}
            if baselines is None
            else baselines,
            transfers=transfers,
            schedule=build(schedule, n_stages, n_microbatches, n_ranks),
            predictions={},
            sizes={"b": 4},
            notes=notes,
            cost_graph=graph,
        )
        timeline = predict(plan.schedule, plan.partition, plan.transfers, plan.hardware)
        plan.predictions["step_ms"] = timeline.makespan_ms  # type: ignore[index]
        plan.predictions["bubble_fraction"] = timeline.bubble_fraction  # type: ignore[index]
        plan.verify()
        return plan

    def transfers(self, stages: Mapping[str, int]) -> tuple[Transfer, ...]:
        made = {node.name: node for node in self.nodes}
        crossing = dict.fromkeys((a, stages[b]) for a, b in self.edges if stages[a] != stages[b])
        return tuple(
            Transfer(name, stages[name], dst, made[name].out_bytes, made[name].grad_bytes)
            for name, dst in crossing
        )

    def stage_cost(
        self,
        stage: int,
        n_stages: int,
        n_microbatches: int,
        stages: Mapping[str, int],
        transfers: Sequence[Transfer],
    ) -> StageCost:
        own = [node for node in self.nodes if stages[node.name] == stage]
        recv = sum(link.nbytes + link.grad_nbytes for link in transfers if link.dst == stage)
        sent = sum(link.nbytes + link.grad_nbytes for link in transfers if link.src == stage)
        fwd, bwd = sum(n.fwd_ms for n in own), sum(n.bwd_ms for n in own)
        comm = HARDWARE.transfer_ms(recv) + HARDWARE.transfer_ms(sent)
        params, saved = sum(n.param_bytes for n in own), sum(n.saved_bytes for n in own)
        flight = min(n_microbatches, n_stages - stage)
        memory = 4 * params + flight * saved
        total = max(fwd + bwd, HARDWARE.transfer_ms(recv), HARDWARE.transfer_ms(sent))
        return StageCost(stage, fwd, bwd, recv, sent, comm, total, params, saved, flight, memory, len(own))


def transformer(n_blocks: int, stem: str = "h", *, tied: bool = True) -> Builder:
    """An embedding, blocks of attention and MLP around a residual stream, a norm and a tied head."""
    b = Builder("GPT")
    positions = b.op("", "arange", mib=0.01, grad=False)
    x = b.op(
        "",
        "add",
        b.op("wte", "@", ms=0.05, params_mib=40),
        b.op("wpe", "@", positions, ms=0.02, params_mib=2),
    )
    x = b.op("drop", "@", x, ms=0.05)
    for block in range(n_blocks):
        x = transformer_block(b, f"{stem}.{block}", x)
    head = b.op("lm_head", "@", b.op("ln_f", "@", x, ms=0.05, params_mib=0.01), ms=1.1, mib=48, params_mib=40)
    if tied:
        b.tied.append(TiedParam("wte.weight", 40 * MIB, ("wte", head)))
    return b


def transformer_block(b: Builder, fqn: str, x: str) -> str:
    qkv = b.op(
        f"{fqn}.attn.qkv",
        "@",
        b.op(f"{fqn}.ln_1", "@", x, ms=0.05, params_mib=0.01),
        ms=0.3,
        mib=3,
        params_mib=12,
    )
    mixed = b.op(f"{fqn}.attn", "scaled_dot_product_attention", qkv, ms=0.25)
    x = b.op(fqn, "add", x, b.op(f"{fqn}.attn.proj", "@", mixed, ms=0.1, params_mib=4), ms=0.03)
    wide = b.op(
        f"{fqn}.mlp.fc",
        "@",
        b.op(f"{fqn}.ln_2", "@", x, ms=0.05, params_mib=0.01),
        ms=0.4,
        mib=4,
        params_mib=16,
    )
    narrow = b.op(
        f"{fqn}.mlp.proj", "@", b.op(f"{fqn}.mlp.act", "@", wide, ms=0.1, mib=4), ms=0.4, params_mib=16
    )
    return b.op(fqn, "add_1", x, narrow, ms=0.03)


def gpt(n_blocks: int, n_stages: int, n_microbatches: int, **options: object) -> Plan:
    """The transformer cut between blocks, as many in each stage as nearly goes."""

    def stage_of(node: CostNode) -> int:
        block = node.fqn.split(".")
        if block[0] == "h":
            return int(block[1]) * n_stages // n_blocks
        return n_stages - 1 if node.fqn in ("ln_f", "lm_head") else 0

    return transformer(n_blocks).plan(stage_of, n_microbatches, **options)  # type: ignore[arg-type]


def gpt_cut_in_a_block(n_microbatches: int = 4) -> Plan:
    """Two stages; the cut goes through the second of four blocks, behind its attention."""
    late = ("h.2", "h.3", "ln_f", "lm_head", "h.1.mlp", "h.1.ln_2")

    def stage_of(node: CostNode) -> int:
        return int(node.fqn.startswith(late) or node.name == "h_1_add_1")

    return transformer(4).plan(stage_of, n_microbatches)


def unet(n_microbatches: int = 8) -> Plan:
    """Three levels down and up with skips, and a time embedding that every level reads, in 4 stages."""
    b = Builder("UNet")
    time = b.op(
        "",
        "cat",
        b.op("", "sin", mib=0.01, grad=False),
        b.op("", "cos", mib=0.01, grad=False),
        mib=0.02,
        grad=False,
    )
    time = b.op(
        "time_mlp.1", "@", b.op("time_mlp.0", "@", time, ms=0.01, mib=0.01, params_mib=0.1), ms=0.01, mib=0.01
    )
    time = b.op("time_mlp.2", "@", time, ms=0.02, mib=0.01, params_mib=0.1)
    x, skips = b.op("conv_in", "@", ms=0.2, mib=8, params_mib=0.1), []
    for level in range(3):
        skips.append(unet_block(b, f"down.{level}.block", x, time, mib=8 / 2**level))
        x = b.op(f"down.{level}.pool", "@", skips[-1], ms=0.2, mib=4 / 2**level, params_mib=0.5)
    x = unet_block(b, "mid.block1", x, time, mib=1)
    x = unet_block(b, "mid.block2", x, time, mib=1)
    for level in range(3):
        x = b.op(f"up.{level}", "interpolate", x, ms=0.05, mib=1 * 2**level)
        x = b.op(f"up.{level}", "cat", x, skips[-1 - level], ms=0.05, mib=2 * 2**level)
        x = unet_block(b, f"up.{level}.block", x, time, mib=2 * 2**level)
    b.op(
        "conv_out",
        "@",
        b.op("", "silu", b.op("norm_out", "@", x, ms=0.1, mib=8), ms=0.1, mib=8),
        ms=0.2,
        mib=2,
    )
    where = {"": 0, "time_mlp": 0, "conv_in": 0, "down.0": 0, "down.1": 1, "down.2": 1, "mid": 2, "up.0": 2}

    def stage_of(node: CostNode) -> int:
        top = [
            prefix for prefix in where if node.fqn == prefix or (prefix and node.fqn.startswith(f"{prefix}."))
        ]
        return 3 if node.name == "silu" else where[top[0]] if top else 3

    return b.plan(stage_of, n_microbatches)


def unet_block(b: Builder, fqn: str, x: str, time: str, *, mib: float) -> str:
    scaled = b.op(f"{fqn}.time", "@", b.op(fqn, "silu", time, mib=0.01), mib=0.01, params_mib=0.1)
    h = b.op(
        f"{fqn}.conv1", "@", b.op(f"{fqn}.norm1", "@", x, ms=0.1, mib=mib), ms=0.6, mib=mib, params_mib=1
    )
    h = b.op(fqn, "add", h, scaled, ms=0.05, mib=mib)
    h = b.op(
        f"{fqn}.conv2", "@", b.op(f"{fqn}.norm2", "@", h, ms=0.1, mib=mib), ms=0.6, mib=mib, params_mib=1
    )
    return b.op(fqn, "add_1", h, x, ms=0.05, mib=mib)


HOSTILE = (
    "</script><script>alert(1)</script>",
    "quote\"apos'amp&lt<",
    "back\\slash\nnewline|pipe]]>",
    "nul\x00bell\x07\ud800",
    "日本語",
    "-->",
    "{{x}}${y}%d",
)


def hostile() -> Plan:
    """Modules whose names try to break out of every format, in 2 stages."""
    b = Builder('</title><script>alert("model")</script>')
    x = b.op("", "add")
    for name in HOSTILE:
        x = b.op(name, "@", x, ms=1.0, params_mib=1)
    middle = HOSTILE[len(HOSTILE) // 2 :]
    return b.plan(lambda node: int(node.fqn in middle), 2, notes=("a <b>note</b> & more",))
