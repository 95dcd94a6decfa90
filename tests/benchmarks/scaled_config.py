"""Makes any config of transformers small by the names of its numbers, keeping their ratios.

Heads stay as many as they are, and every width is divided by one factor, so that what the constructor or the
model expects of them (heads x head dimension = width, sections that add up) goes on to hold::

    hidden_size 4096, 32 heads of 128, mrope_section [16, 24, 24]    by 8:    512, 32 heads of 16, [2, 3, 3]

Layers are cut to a few, lists of one entry a layer with them; vocabularies, experts and images shrink.
"""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 128
IMAGE_PATCHES = 4

_DEPTH = re.compile(r"(^|_)(n_?layers?|layers?|depths?|num_blocks|n_blocks|num_hidden_layers)$|num_.*_layers")
_WIDTH = re.compile(
    r"hidden|dim|width|channels|embed|inner|intermediate|ffn|d_model|d_ff|d_kv|d_head|lora_rank|section|filters"
    r"|(^|_)size$|units|planes|d_conv_in"
)
_NO_WIDTH = re.compile(
    r"image|patch|window|kernel|^num_(?!channels_)|^n_(?!embd|inner)|max_|position|batch|vocab|chunk|stride|act"
    r"|layers|dropout|num_channels|in_channels|expand|grid|queries"
)
_EXPERTS = re.compile(r"experts$|num_experts|n_routed")


def scaled(config: dict[str, Any], factor: int, n_layers: int) -> dict[str, Any]:
    """Return a config, as a dictionary, with small numbers.

    Args:
        config: What ``to_dict`` of a default config gives, nested ones inside.
        factor: What widths are divided by.
        n_layers: How many layers are left.

    Example:
        >>> scaled({"hidden_size": 512, "num_heads": 8, "num_layers": 24, "kinds": list(range(24))}, 16, 2)
        {'hidden_size': 32, 'num_heads': 8, 'num_layers': 2, 'kinds': [0, 1]}
    """
    depths = {value for name, value in config.items() if _DEPTH.search(str(name)) and _is_int(value)}
    lists = {name: value for name, value in config.items() if isinstance(value, list | tuple)}
    by_layer = {
        name: value for name, value in lists.items() if len(value) in depths and len(value) > n_layers
    }
    kept = _layers_of_every_kind(list(by_layer.values()), n_layers)
    patch = config.get("patch_size")
    small = {}
    for name, value in config.items():
        if isinstance(value, dict):
            small[name] = scaled(_few(value, n_layers), factor, n_layers)
        elif name in by_layer:
            small[name] = [_number(name, value[index], factor, n_layers) for index in kept]
        elif name in lists:
            small[name] = [_number(name, item, factor, n_layers) for item in value]
        elif name == "image_size" and _is_int(value) and _is_int(patch) and value % patch == 0:
            small[name] = min(value, patch * IMAGE_PATCHES)
        else:
            small[name] = _number(str(name), value, factor, n_layers)
    return small


def _few(nested: dict[Any, Any], n_layers: int) -> dict[Any, Any]:
    """Return a dictionary without the layers that are gone, if its keys are layers."""
    is_by_layer = nested and all(str(key).isdigit() and isinstance(nested[key], dict) for key in nested)
    return {key: value for key, value in nested.items() if not is_by_layer or int(key) < n_layers}


def _layers_of_every_kind(lists: list[Any], n_layers: int) -> list[int]:
    """Choose layers, the first of each kind among them if they are not too many."""
    kinds = [tuple(map(str, kind)) for kind in zip(*lists, strict=False)]
    firsts = [kinds.index(kind) for kind in dict.fromkeys(kinds)][:n_layers]
    rest = [index for index in range(len(kinds)) if index not in firsts]
    return sorted([*firsts, *rest[: n_layers - len(firsts)]])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: Any, factor: int, n_layers: int) -> Any:
    """Return the small number for one of this name."""
    if isinstance(value, dict):
        return scaled(value, factor, n_layers)
    if not _is_int(value) or value <= 1:
        return value
    if name.endswith(("token_id", "token_index")):
        return value if value < VOCABULARY else 100 + sum(map(ord, name)) % 27
    limit = _limit(name, n_layers)
    if limit is not None:
        return min(value, limit)
    is_width = _WIDTH.search(name) and not _NO_WIDTH.search(name) and value % factor == 0
    return max(1, value // factor) if is_width else value


def _limit(name: str, n_layers: int) -> int | None:
    """Return the largest number of this name, unless it is a width."""
    limits = (
        (name in ("n_group", "topk_group", "num_expert_groups"), 1),
        ("vocab" in name, VOCABULARY),
        (_DEPTH.search(name), n_layers),
        (name in ("num_experts_per_tok", "top_k", "moe_topk"), 2),
        (_EXPERTS.search(name), 8),
        ("position" in name, 1024),
    )
    return next((limit for applies, limit in limits if applies), None)
