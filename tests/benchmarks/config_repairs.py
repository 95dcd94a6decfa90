"""Mends a small config of transformers by what its model raises: sections, tokens and numbers left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

THETA = 10000.0
IMAGE_WORDS = (
    "<image>",
    "<|extra_200|>",
    "IMGIMGAZ",
    "IMGIMGBZ",
    *(f"<|visual token {index:06}|>" for index in range(8)),
)
LEFT_TO_USER: dict[str, Any] = {
    **{"n_shared_experts": 1, "n_routed_experts": 4, "num_experts": 4, "top_k_experts": 2, "n_group": 1},
    **{"moe_intermediate_size": 16, "num_experts_per_tok": 2, "topk_group": 1, "clip_qkv": 8.0},
    **{"sliding_window": 8, "deepstack_layer_map": [[0, 0], [1, 1]], "downsample_rate": "1/2"},
    "video_token_id": 98,
    "vocabulary_map": {word: 80 + index for index, word in enumerate(IMAGE_WORDS)},
}
"""What a config may leave None for the user to say."""
SECTIONS = (1, 1, 2)
"""Parts of a head for time, height and width, where the message does not say which are wanted."""


def repaired(config: Any, message: str, small: dict[str, Any]) -> Any:
    """Return the config, changed in place so that it no longer raises a message, or None if no rule applies.

    Args:
        config: The config, its nested ones inside.
        message: What building or running its model raised.
        small: Small numbers by the names in configs.
    """
    for pattern, repair in RULES:
        found = re.search(pattern, message)
        if found:
            repair(config, found, small)
            return config
    return None


def parts_of(config: Any) -> Iterator[Any]:
    """Yield a config and those nested in it."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from parts_of(value)


def sections(total: int, wanted: tuple[int, ...]) -> list[int]:
    """Divide a whole number in the ratio of some others.

    Example:
        >>> sections(4, (16, 24, 24)), sections(16, (8, 12, 12))
        ([1, 1, 2], [4, 6, 6])
    """
    first = [total * part // sum(wanted) for part in wanted[:-1]]
    return [*first, total - sum(first)]


def _set_sections(config: Any, total: int, wanted: tuple[int, ...]) -> None:
    for part in parts_of(config):
        rope = getattr(part, "rope_parameters", None)
        if isinstance(rope, dict):
            part.rope_parameters = rope | {"mrope_section": sections(total, wanted)}


def _split(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    _set_sections(config, int(found[1]), tuple(map(int, found[2].split(","))))


def _expanded(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    _set_sections(config, int(found[1]), SECTIONS)


def _left_out(config: Any, found: re.Match[str], small: dict[str, Any]) -> None:
    """Set an attribute that a config lacks to what a config around it or in it has."""
    owner, name = found[1], found[2]
    values = [getattr(part, name, None) for part in parts_of(config)]
    value = next((value for value in values if value is not None), small.get(name))
    if value is None and name.endswith("token_id"):
        value = small["vocab_size"] - 3 - len(name) % 7
    if value is None and name == "rope_theta":
        value = THETA
    for part in parts_of(config):
        if type(part).__name__ == owner and value is not None:
            setattr(part, name, value)


def _no_cache(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    for part in parts_of(config):
        if hasattr(part, "use_cache"):
            part.use_cache = False


def _set_all(config: Any, ending: str, value: Any) -> None:
    for part in parts_of(config):
        for name in [name for name in vars(part) if name.endswith(ending)]:
            setattr(part, name, value)


def _first_padding(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    _set_all(config, "pad_token_id", 0)


def _fill(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    """Set what configs leave to the user: nested configs, numbers, each layer's kind, sections."""
    for part in parts_of(config):
        kinds = getattr(part, "sub_configs", {}) | getattr(part, "sub_configs_defaults", {})
        for name, nested in kinds.items():
            if getattr(part, name, None) is None and hasattr(nested, "model_type"):
                setattr(part, name, nested())
        for name, value in LEFT_TO_USER.items():
            if name in vars(part) and getattr(part, name) is None:
                setattr(part, name, value)
        n_layers = getattr(part, "num_hidden_layers", None)
        if n_layers and getattr(part, "mlp_layer_types", ()) is None:
            part.mlp_layer_types = ["dense"] * n_layers
        if n_layers and vars(part).get("head_dim", 0) is None:
            part.head_dim = part.hidden_size // part.num_attention_heads
        rope = getattr(part, "rope_parameters", None)
        if isinstance(rope, dict) and "mrope_section" in getattr(part, "ignore_keys_at_rope_validation", ()):
            head_dim = getattr(part, "head_dim", None) or part.hidden_size // part.num_attention_heads
            part.rope_parameters = {"mrope_section": sections(head_dim // 2, SECTIONS)} | rope


def _within(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Move a token that a vocabulary does not have into it."""
    index, size = int(found[1]), int(found[2])
    for part in parts_of(config):
        for name in ("num_embeddings", "codebook_size"):
            if size <= index < (getattr(part, name, None) or 0):
                setattr(part, name, size)
        for name in [name for name, value in vars(part).items() if value == index and "_" in name]:
            setattr(part, name, size - 3 - len(name) % 7)


def _enlarged(config: Any, found: re.Match[str], small: dict[str, Any]) -> None:
    """Move a token into the vocabulary, or where no config names it, have a vocabulary that holds it."""
    before = config.to_dict()
    _within(config, found, small)
    if config.to_dict() != before:
        return
    for part in parts_of(config):
        if getattr(part, "vocab_size", None) == int(found[2]):
            part.vocab_size = int(found[1]) + 1


def _ungrouped(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    """Let convolutions have one group."""
    _set_all(config, "_groups", 1)


def _rope_of_layers(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Give every kind of layer its own angles."""
    for part in parts_of(config):
        kinds = set(getattr(part, "layer_types", None) or ())
        if found[1] in kinds and isinstance(getattr(part, "rope_parameters", None), dict):
            part.rope_parameters = {kind: {"rope_type": "default", "rope_theta": THETA} for kind in kinds}


def _as_wide(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Let the last width of a convolution net be what its multiplier makes of it."""
    for part in parts_of(config):
        if getattr(part, "hidden_dim", None) == int(found[2]):
            part.hidden_dim = int(found[1])


def _queried(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Say how many queries an image of so many patches gets."""
    for part in parts_of(config):
        if hasattr(part, "projector_patch_to_query_dict"):
            part.projector_patch_to_query_dict = {int(found[1]): 4}


def _widened(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Let the first width of a tower that is what the message found be what it expects instead."""
    old, new = int(found["old"]), int(found["new"])
    nested = ((name, part) for name, part in vars(config).items() if hasattr(part, "model_type"))
    towers = [part for name, part in nested if re.search("vision|audio", name)]
    for part in [inner for tower in (*towers, config) for inner in parts_of(tower)]:
        others = [name for name in vars(part) if name.endswith(("_dim", "_size", "_channels"))]
        for name in ("intermediate_size", "hidden_size", *others):
            value = getattr(part, name, None)
            if value == old or (isinstance(value, list) and value[-1:] == [old]):
                setattr(part, name, [*value[:-1], new] if isinstance(value, list) else new)
                return


def _as_wide_as_text(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    """Let a tower give numbers as wide as the text."""
    for part in parts_of(config):
        for name in ("out_hidden_size", "text_hidden_size"):
            if part is not config and getattr(part, name, None):
                setattr(part, name, config.get_text_config().hidden_size)


def _shared_late(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    """Let the first layers, one of every kind, make the keys and values that the others share."""
    for part in parts_of(config):
        n_layers = getattr(part, "num_hidden_layers", 0)
        if getattr(part, "num_kv_shared_layers", 0) and n_layers:
            part.num_kv_shared_layers = n_layers - len(set(part.layer_types))


def _early_features(config: Any, _: re.Match[str], __: dict[str, Any]) -> None:
    """Take features of layers that there are."""
    for part in parts_of(config):
        for name in [
            name
            for name in vars(part)
            if re.match("vision_feature_layers?$|intermediate_layers_indices|global_attn_indexes", name)
        ]:
            layers = getattr(part, name)
            setattr(
                part,
                name,
                [index % 2 for index in range(len(layers))] if isinstance(layers, list | tuple) else -1,
            )


def _projected(config: Any, found: re.Match[str], _: dict[str, Any]) -> None:
    """Let texts be projected to the width of images."""
    config.projection_dim = int(found[1])


RULES: tuple[tuple[str, Callable[[Any, re.Match[str], dict[str, Any]], None]], ...] = (
    (r"split_sizes to sum exactly to (\d+) .* got split_sizes=\[([\d, ]+)\]", _split),
    (
        r"expanded size of the tensor \((\d+)\) must match the existing size \(\d+\) at .*dimension 0",
        _expanded,
    ),
    (r"'(\w+Config)' object has no attribute '(\w+)'", _left_out),
    (r"get_seq_length` can only", _no_cache),
    (r"^'(\w+_attention)'$", _rope_of_layers),
    (r"NoneType|'bool' object|must not be None|Could not find a `\w+` argument", _fill),
    (r"index (\d+) is out of bounds for dimension \d with size (\d+)", _enlarged),
    (r"in_channels must be divisible by groups", _ungrouped),
    (r"Padding_idx must be within num_embeddings", _first_padding),
    (r"running_mean should contain (\d+) elements not (\d+)", _as_wide),
    (r"Number of patches (\d+) not found in", _queried),
    (r"features and (image|audio|placeholder) ?tokens do not match", _as_wide_as_text),
    (r"layer types producing a cache is different", _shared_late),
    (r"tuple index out of range", _early_features),
    (r"Given normalized_shape=\[(?P<old>\d+)\], expected .* size ?\[.*, (?P<new>\d+)\]", _widened),
    (r"Sizes of tensors .* Expected size (?P<old>\d+) but got size (?P<new>\d+) for", _widened),
    (r"shapes cannot be multiplied \(8x\d+ and (\d+)x8\)", _projected),
    (r"shapes cannot be multiplied \(\d+x(?P<new>\d+) and (?P<old>\d+)x\d+\)", _widened),
)
"""What to do about a message, the first that matches."""
