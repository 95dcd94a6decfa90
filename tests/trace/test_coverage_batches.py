"""The batches of the coverage benchmark reach all parts of a model, images and sound among them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.benchmarks.config_repairs import repaired
from tests.benchmarks.images_in_text import microbatches, packed
from tests.benchmarks.made_arguments import accepted_by
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
    ids = torch.tensor([98, 98, 5]).repeat(8, 1)
    batch, tokens = {"input_ids": ids, "pixel_values": ids, "audio_input_ids": ids}, {IMAGE: 98, SOUND: 97}
    for message, expected in (
        ("Audio features and audio tokens do not match, tokens: 0, features: 32", (SOUND, 4)),
        ("Image features and image tokens do not match, tokens: 0, features: 8", (IMAGE, 1)),
        ("Multimodal features and tokens do not match, tokens: 16, features: 32", (IMAGE, 4)),
        ("Multimodal features and tokens do not match, tokens: 0, features: 32", (SOUND, 4)),
        ("Got 16 feature vectors for 0 placeholder tokens (id 97)", (SOUND, 2)),
        ("something else", None),
    ):
        assert missed(message, batch, tokens) == expected


class Hearing(nn.Module):
    """A model of text that counts wrongly what it misses, or says nothing until there are two tokens."""

    def __init__(self, says_nothing: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, 8)
        self.audio_tower = nn.Linear(3, 8)
        self.says_nothing = says_nothing

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, input_features: torch.Tensor) -> torch.Tensor:
        embedded, places = self.embed(input_ids), input_ids == 97
        features = self.audio_tower(input_features)
        if self.says_nothing and places.sum() < 4:
            raise RuntimeError("shape mismatch")
        if features.numel() != 8 * places.sum():
            n_told = features.shape[0] * (features.shape[1] if self.says_nothing else 1)
            raise ValueError(f"Audio features and audio tokens do not match, features: {n_told}")
        return embedded.masked_scatter(places[..., None].expand_as(embedded), features)


@pytest.mark.parametrize("says_nothing", [False, True])
def test_sound_gets_as_many_tokens_as_the_tower_gave_whatever_the_message_says(says_nothing: bool) -> None:
    batch = {"input_ids": torch.randint(3, 80, (2, 5)), "input_features": torch.randn(2, 6, 3)}
    *_, last = placed(Hearing(says_nothing), batch, {SOUND: 97})
    assert (last["input_ids"] == 97).sum(1).tolist() == [6, 6]


def test_a_model_that_does_not_say_what_embeds_its_text_gets_its_tokens() -> None:
    class Silent(Seeing):
        def get_input_embeddings(self) -> nn.Module:
            raise NotImplementedError

    _assert_reached(Silent(is_strict=False))


def test_tokens_placed_before_are_taken_out_first() -> None:
    ids = torch.tensor([[5, 98, 98, 98, 6, 7]]).repeat(2, 1)
    given = {"input_ids": ids, "pixel_values": torch.randn(2, 3)}
    *_, batch = placed(Seeing(is_strict=True), given, {IMAGE: 98})
    assert batch["input_ids"][0].tolist() == [5, 98, 98, 98, 98, 6, 7]


def test_images_in_one_long_row_are_cut_by_samples() -> None:
    row = torch.arange(16.0).reshape(1, 1, 1, 16)
    batch = {"input_ids": torch.zeros(4, 3), "pixel_values": row, "target_sizes": torch.full((4, 2), 2)}
    assert packed(batch) == {"pixel_values": 3}
    cut = microbatches(batch, 2)
    assert torch.equal(torch.cat([part["pixel_values"] for part in cut], 3), row)
    assert [part["target_sizes"].shape for part in cut] == [(2, 2), (2, 2)]


def test_what_a_model_hands_on_to_its_encoder_counts_as_taken() -> None:
    class Encoder(nn.Module):
        def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None) -> None: ...

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()

        def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> None: ...

    assert accepted_by(Model()) == {"input_ids", "kwargs", "pixel_values"}


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
