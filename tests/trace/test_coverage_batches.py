"""The batches of the coverage benchmark reach all parts of a model, images and sound among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.benchmarks.config_repairs import repaired
from tests.benchmarks.places_in_text import IMAGE, SOUND, missed, placed
from tests.benchmarks.small_batches import unreached
from tests.benchmarks.small_configs import SMALL_NUMBERS


class Seeing(nn.Module):
    """A model of text that puts four features of an image where the text says."""

    def __init__(self, is_strict: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, 8)
        self.tower = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 32))
        self.is_strict = is_strict

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        embedded = self.embed(input_ids)
        if pixel_values is not None:
            features, places = self.tower(pixel_values), input_ids == 98
            if self.is_strict and features.numel() != 8 * places.sum():
                raise ValueError(f"tokens: {int(places.sum())}, image features: {features.numel() // 8}")
            embedded = embedded.masked_scatter(places[..., None].expand_as(embedded), features)
        return embedded


def _batch() -> dict[str, Any]:
    return {"input_ids": torch.randint(3, 80, (2, 5)), "pixel_values": torch.randn(2, 3)}


def _assert_reached(model: Seeing) -> None:
    (batch,) = placed(model, _batch(), {IMAGE: 98})
    assert (batch["input_ids"] == 98).sum(1).tolist() == [4, 4]
    model(**batch).pow(2).mean().backward()
    assert unreached(model, batch) == []


def test_text_gets_the_tokens_that_a_model_says_it_misses() -> None:
    _assert_reached(Seeing(is_strict=True))


def test_text_gets_the_tokens_that_a_model_offers_numbers_for_and_does_not_check() -> None:
    _assert_reached(Seeing(is_strict=False))


def test_a_tower_that_no_token_stands_for_counts_as_left_out() -> None:
    model, batch = Seeing(is_strict=False), _batch()
    model(**batch).pow(2).mean().backward()
    assert unreached(model, batch) == ["tower"]


def test_messages_say_of_which_medium_tokens_are_missing() -> None:
    assert missed("Audio features and audio tokens do not match, tokens: 0, features: 32", 8) == (SOUND, 4)
    assert missed("Image features and image tokens do not match, tokens: 0, features: 8", 8) == (IMAGE, 1)


def test_a_token_that_no_config_names_is_held_by_a_larger_vocabulary() -> None:
    config = SimpleNamespace(vocab_size=99, model_type="a")
    config.to_dict = lambda: {"vocab_size": config.vocab_size}
    found = repaired(config, "index 10784 is out of bounds for dimension 2 with size 99", SMALL_NUMBERS)
    assert found.vocab_size == 10785


def test_the_width_of_a_tower_follows_what_it_is_given() -> None:
    tower = SimpleNamespace(model_type="tower", hidden_size=32, to_dict=dict)
    config = SimpleNamespace(vision_config=tower, vision_feature_layer=-1, hidden_size=64)
    message = "mat1 and mat2 shapes cannot be multiplied (16x2048 and 32x32)"
    assert repaired(config, message, SMALL_NUMBERS).vision_config.hidden_size == 2048
    assert config.hidden_size == 64
