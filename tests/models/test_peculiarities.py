"""Each model has the property for which it was chosen: without it a test elsewhere would prove nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import (
    encoder_decoder,
    gpt,
    llama_like,
    lstm,
    mixture_of_experts,
    resnet,
    tied_lm,
    two_tower,
    unet,
)


def calls(model: nn.Module, *args: object, **kwargs: object) -> list[str]:
    """Run the model and list the FQN of each leaf module, once a call."""
    made: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, fqn=fqn: made.append(fqn))
        for fqn, module in model.named_modules()
        if not list(module.children())
    ]
    model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return made


def changed(before: Tensor, after: Tensor) -> list[int]:
    """List the tokens of the first sequence whose output differs."""
    return (before[0] - after[0]).abs().amax(dim=-1).gt(1e-6).nonzero().flatten().tolist()


def test_gpt_head_is_the_embedding() -> None:
    model = gpt.build()
    assert model.head.weight is model.wte.weight
    assert {"wte.weight", "head.weight"} <= set(model.state_dict())


def test_gpt_takes_shorter_sequences() -> None:
    tokens = gpt.example(batch=2)[0][0][:, :5]
    assert gpt.build().eval()(tokens).shape == (2, 5, 256)


@pytest.mark.parametrize("file", [gpt, llama_like, mixture_of_experts, lstm])
def test_language_models_see_no_later_token(file: object) -> None:
    torch.manual_seed(0)
    model = file.build().eval()
    args, kwargs = file.example(batch=1)
    tokens = args[0] if args else kwargs.pop("tokens")
    edited = tokens.clone()
    edited[0, 10] = (edited[0, 10] + 1) % 256
    outputs = [model(given, *args[1:], **kwargs) for given in (tokens, edited)]
    before, after = (getattr(output, "logits", output) for output in outputs)
    if isinstance(before, tuple):
        before, after = before[0], after[0]
    assert min(changed(before, after)) == 10


def test_llama_computes_its_rotary_tables_once() -> None:
    args, kwargs = llama_like.example()
    assert calls(llama_like.build(), *args, **kwargs).count("rotary") == 1


def test_llama_positions_are_relative() -> None:
    torch.manual_seed(0)
    model = llama_like.build().eval()
    (tokens,), _ = llama_like.example()
    torch.testing.assert_close(model(tokens, start=100).logits, model(tokens).logits, rtol=1e-3, atol=1e-4)


def test_llama_full_mask_equals_no_mask() -> None:
    torch.manual_seed(0)
    model = llama_like.build().eval()
    (tokens,), _ = llama_like.example()
    masked = model(tokens, torch.ones_like(tokens, dtype=torch.bool)).logits
    torch.testing.assert_close(masked, model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_llama_returns_hidden_states_if_asked() -> None:
    model = llama_like.build()
    args, kwargs = llama_like.example()
    assert model(*args, **kwargs).hidden_states is None
    assert len(model(*args, **kwargs, output_hidden_states=True).hidden_states) == len(model.layers) + 1


def test_unet_output_depends_on_every_skip_and_on_time() -> None:
    torch.manual_seed(0)
    model = unet.build().eval()
    args, kwargs = unet.example()
    before = model(*args, **kwargs)
    assert not torch.equal(model(*args, timestep=kwargs["timestep"] // 2), before)
    for down in model.down:
        handle = down.register_forward_hook(lambda _, __, output: (output[0], output[1] * 0))
        assert not torch.equal(model(*args, **kwargs), before)
        handle.remove()


def test_tied_lm_calls_each_block_again() -> None:
    args, kwargs = tied_lm.example()
    made = calls(tied_lm.build(), *args, **kwargs)
    assert [fqn for fqn in made if fqn.endswith("fc1")] == ["blocks.0.fc1", "blocks.1.fc1"] * 3


def test_tied_lm_embedding_gets_gradients_from_both_ends() -> None:
    args, kwargs, target = tied_lm.make_batch(2)
    model = tied_lm.build()
    tied_lm.loss(model(*args, **kwargs), target).backward()
    unread = torch.ones(256, dtype=torch.bool).index_fill(0, args[0].flatten(), False)
    assert model.embed_tokens.weight.grad[unread].any()


def test_tied_lm_padding_is_not_looked_at() -> None:
    torch.manual_seed(0)
    model = tied_lm.build().eval()
    (tokens,), _ = tied_lm.example(batch=1)
    mask = torch.ones_like(tokens).index_fill(1, torch.tensor([30, 31]), 0)
    edited = tokens.index_fill(1, torch.tensor([31]), 3)
    assert changed(model(tokens, mask), model(edited, mask)) == [31]


def test_two_towers_meet_only_in_the_score() -> None:
    torch.manual_seed(0)
    model = two_tower.build().eval()
    args, kwargs = two_tower.example()
    other = two_tower.example(seed=1)[0]
    before, after = model(*args, **kwargs), model(args[0], other[1], **kwargs)
    assert torch.equal(before["query"], after["query"])
    assert not torch.equal(before["item"], after["item"])
    assert not torch.equal(before["scores"], after["scores"])


def test_router_weights_are_a_mean_of_the_best() -> None:
    torch.manual_seed(0)
    router = mixture_of_experts.build().blocks[0].moe.router
    weights, balance = router(torch.randn(2, 5, 48))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5))
    assert (weights > 0).sum(-1).eq(2).all()
    assert balance.shape == ()


def test_router_is_noisy_and_counts_in_train_mode_only() -> None:
    torch.manual_seed(0)
    router = mixture_of_experts.build().blocks[0].moe.router
    x, load = torch.randn(2, 5, 48), router.load.clone()
    router.eval()
    assert torch.equal(router(x)[0], router(x)[0])
    assert torch.equal(router.load, load)
    router.train()
    assert not torch.equal(router(x)[0], router(x)[0])
    assert not torch.equal(router.load, load)
    torch.testing.assert_close(router.load.sum(), torch.tensor(2.0))


def test_encoder_decoder_has_one_embedding_at_four_places() -> None:
    model = encoder_decoder.build()
    assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared
    assert model.lm_head.weight is model.shared.weight
    assert (
        sum(
            key.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight"))
            for key in model.state_dict()
        )
        == 4
    )


def test_encoder_decoder_needs_labels_for_a_loss() -> None:
    args, kwargs = encoder_decoder.example()
    output = encoder_decoder.build()(*args, **{**kwargs, "labels": None})
    assert output.loss is None
    with pytest.raises(ValueError, match="returned no loss\n  Try: give it labels"):
        encoder_decoder.loss(output)


def test_every_decoder_block_reads_the_memory() -> None:
    torch.manual_seed(0)
    model = encoder_decoder.build().eval()
    args, kwargs = encoder_decoder.example()
    memories = []
    handles = [
        block.register_forward_pre_hook(lambda _, given: memories.append(given[1]))
        for block in model.decoder.blocks
    ]
    output = model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    assert len(memories) == 3
    assert all(memory is output.memory for memory in memories)


def test_lstm_state_carries_a_text_over_two_calls() -> None:
    torch.manual_seed(0)
    model = lstm.build().eval()
    (tokens, _), _ = lstm.example()
    first, state = model(tokens[:, :10])
    second, _ = model(tokens[:, 10:], state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), model(tokens)[0], rtol=1e-4, atol=1e-5)
    assert not any(value.requires_grad for pair in state for value in pair)


def test_locked_dropout_drops_the_same_channels_at_each_step() -> None:
    torch.manual_seed(0)
    dropped = lstm.LockedDropout(0.5)(torch.ones(2, 7, 64))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


def test_resnet_statistics_move_in_train_mode_only() -> None:
    torch.manual_seed(0)
    model = resnet.build()
    (image,), _ = resnet.example()
    model.eval()(image)
    assert model.bn1.num_batches_tracked == 0
    model.train()(image)
    assert model.bn1.num_batches_tracked == 1


def test_resnet_calls_its_activations_twice_a_block() -> None:
    (image,), _ = resnet.example()
    assert calls(resnet.build(), image).count("layer1.0.relu") == 2
