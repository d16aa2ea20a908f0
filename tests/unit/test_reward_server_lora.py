"""Low-rank adapters, alone and in a fit that leaves the audio tower as it is."""

import numpy as np
import pytest
import torch
from torch import nn

from reward_server.audio_tower import ClapAudioTower
from reward_server.fitting import fit_preferences
from reward_server.lora import AdaptedLinear, add_adapters, merge_adapters
from reward_server.scoring import ClapReward
from reward_server.small_clap import SmallClap
from reward_server.tower_inputs import tower_inputs
from reward_server.transformer import TransformerLayer
from rlcap.audio.features import LogMelConfig
from rlcap.config.load import load_config
from rlcap.config.reward import ClapConfig, FinetuneTowers, HeadConfig
from rlcap.errors import ConfigError
from rlcap.preferences.pairs import PreferencePair
from rlcap.types import Clip, PolicyFeatures

WORDS = ["dog", "cat", "rain", "wind", "bell", "car", "horn", "bird"]
CLAP = ClapConfig(embedding_dim=32, audio_channels=[8] * 4, num_segments=4, text_width=16, num_heads=2)
HEAD = HeadConfig(
    hidden_sizes=[32], batch_size=32, learning_rate=3e-3, tower_learning_rate=1e-2, dropout=0.0, num_epochs=20,
    patience=20, heldout_share=0.3, finetune_towers=FinetuneTowers.text_lora,
)  # fmt: skip
LINEAR = ("query_key_value", "attention_out", "feed_forward.1", "feed_forward.3")


def make_clap():
    return SmallClap.for_captions(CLAP, WORDS, LogMelConfig(), seed=0).eval()


def moved(module, seed=0):
    """Set the part of each adapter that begins at zero, as a fit would."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, AdaptedLinear):
            part.up.data = torch.randn(part.up.shape, generator=generator) / 5
    return module


def test_an_adapter_changes_nothing_at_first():
    layer, steps, mask = TransformerLayer(16, 2), torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool)
    before = layer(steps, mask)
    add_adapters(layer, rank=4, alpha=8.0, seed=0)
    assert torch.equal(layer(steps, mask), before)


def test_an_adapter_adds_the_product_of_two_thin_matrices():
    linear, rows = nn.Linear(7, 5), torch.randn(4, 7)
    parent = nn.Sequential(linear)
    add_adapters(parent, rank=3, alpha=6.0, seed=0)
    adapted = moved(parent)[0]
    weight, bias, down, up = (
        part.detach().double().numpy() for part in (linear.weight, linear.bias, adapted.down, adapted.up)
    )
    for row, found in zip(rows.double().numpy(), adapted(rows), strict=True):
        for unit in range(5):
            changed = [weight[unit, i] + 6 / 3 * sum(up[unit, r] * down[r, i] for r in range(3)) for i in range(7)]
            expected = bias[unit] + sum(w * x for w, x in zip(changed, row, strict=True))
            assert found[unit].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_attention_and_feed_forward_take_adapters_and_they_alone_are_trained():
    clap = make_clap()
    add_adapters(clap.text_module, rank=4, alpha=8.0, seed=0)
    trained = {name for name, weights in clap.text_module.named_parameters() if weights.requires_grad}
    assert trained == {f"{layer}.{name}.{part}" for layer in "01" for name in LINEAR for part in ("down", "up")}


def test_merged_weights_give_what_the_adapters_gave_in_the_ordinary_layout():
    clap, captions = make_clap(), ["dog rain", "bell wind car", ""]
    layout = [(name, value.shape) for name, value in clap.state_dict().items()]
    plain = clap.embed_captions(captions)
    add_adapters(clap.text_module, rank=4, alpha=8.0, seed=0)
    adapted = moved(clap.text_module) and clap.embed_captions(captions)
    merge_adapters(clap.text_module)
    assert [(name, value.shape) for name, value in clap.state_dict().items()] == layout
    assert not any(isinstance(part, AdaptedLinear) for part in clap.modules())
    torch.testing.assert_close(clap.embed_captions(captions), adapted, rtol=0, atol=1e-5)
    assert not torch.allclose(adapted, plain, atol=1e-2)


def test_the_same_seed_draws_the_same_adapters():
    one, same, other = (TransformerLayer(16, 2) for _ in range(3))
    for layer, seed in ((one, 1), (same, 1), (other, 2)):
        add_adapters(layer, rank=2, alpha=1.0, seed=seed)
    assert torch.equal(one.attention_out.down, same.attention_out.down)
    assert not torch.equal(one.attention_out.down, other.attention_out.down)


def test_layers_whose_weights_are_read_past_them_are_left_alone():
    layer, steps = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(2, 3, 8)
    before = layer(steps)
    add_adapters(layer, rank=2, alpha=1.0, seed=0)
    assert type(layer.self_attn.out_proj).__name__ == "NonDynamicallyQuantizableLinear"
    assert isinstance(layer.linear1, AdaptedLinear)
    moved(layer)
    assert torch.isfinite(nn.Sequential(layer.linear1, nn.ReLU(), layer.linear2)(steps)).all()
    merge_adapters(layer)
    assert not torch.allclose(layer(steps), before)


def test_a_text_tower_without_linear_layers_is_refused():
    with pytest.raises(ConfigError, match="changes linear layers of the text tower, and this one has none"):
        add_adapters(nn.ModuleList([nn.Embedding(3, 4)]), rank=2, alpha=1.0, seed=0)


def order_world(num_clips=200):
    """Captions of the same words in another order; votes go by the order alone, and the audio is noise."""
    rng = np.random.default_rng(0)

    def in_order(caption):
        place = {word: number for number, word in enumerate(caption.split())}
        halves = (("dog", "cat"), ("rain", "wind"), ("bell", "car"))
        return sum(place.get(first, 9) < place.get(second, 9) for first, second in halves)

    pairs = []
    for number in range(num_clips):
        one, other = (" ".join(rng.permutation(WORDS)[:5]) for _ in range(2))
        if in_order(one) != in_order(other):
            pairs.append(PreferencePair(f"clip-{number}", one, other, (1 if in_order(one) > in_order(other) else -1,)))
    ids = [pair.clip_id for pair in pairs]
    frames = rng.standard_normal((len(ids), 16, 64)).astype(np.float32)
    return PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool)), ids, pairs


def fit(clap, **changes):
    return fit_preferences(clap, *order_world(), HeadConfig(**{**vars(HEAD), **changes}), seed=0)


def test_a_fit_changes_the_text_tower_and_not_one_bit_of_the_audio_tower():
    clap, heard = make_clap(), [Clip("one", np.sin(np.arange(9_000) / 9).astype(np.float32), 16_000)]
    before, embedded = clap.fingerprint, clap.embed_clips(heard)
    fitted = fit(clap, num_epochs=2)
    assert clap.fingerprint == before
    assert fitted.clap.encoder_fingerprint == clap.encoder_fingerprint
    assert np.array_equal(fitted.clap.embed_clips(heard), embedded)
    weights, tuned = clap.state_dict(), fitted.clap.state_dict()
    assert weights.keys() == tuned.keys()
    changed = {name for name, value in weights.items() if not torch.equal(value, tuned[name])}
    assert changed == {f"text_tower.layers.{layer}.{name}.weight" for layer in "01" for name in LINEAR}


def test_audio_is_embedded_once(monkeypatch):
    heard, pool = [], ClapAudioTower.pool
    monkeypatch.setattr(
        ClapAudioTower, "pool", lambda self, frames, mask: heard.append(len(frames)) or pool(self, frames, mask)
    )
    fit(make_clap(), num_epochs=2)
    assert sum(heard) == len(order_world()[1])


def test_what_only_the_text_tells_is_learnt_better_than_over_a_frozen_tower():
    frozen = fit(make_clap(), finetune_towers=FinetuneTowers.none)
    adapted = fit(make_clap())
    assert adapted.metrics.heldout_accuracy > frozen.metrics.heldout_accuracy + 0.1


def test_the_same_seed_fits_the_same_adapters():
    one, other = fit(make_clap(), num_epochs=2), fit(make_clap(), num_epochs=2)
    assert one.clap.fingerprint == other.clap.fingerprint


def test_the_model_with_what_was_learnt_is_saved_and_scores_as_it_was_measured(tmp_path):
    fitted = fit(make_clap(), num_epochs=2)
    with torch.no_grad():
        audio = fitted.clap.embed_features(order_world()[0])[[order_world()[1].index(fitted.heldout.pairs[0].clip_id)]]
    ClapReward(fitted.clap, fitted.head).save(tmp_path)
    loaded = ClapReward.load(tmp_path)
    scored = loaded.score(audio.numpy(), [fitted.heldout.pairs[0].caption_a], np.zeros(1, dtype=np.int64))
    np.testing.assert_allclose(scored, fitted.heldout.scores_a[:1], atol=1e-5)


def test_a_clap_that_lets_no_gradient_through_is_refused():
    class Closed(SmallClap):
        @torch.no_grad()
        def embed_captions(self, captions):
            return super().embed_captions(captions)

    clap = Closed.for_captions(CLAP, WORDS, LogMelConfig(), seed=0).eval()
    inputs = tower_inputs(clap, np.ones((1, 32), dtype=np.float32), ["dog"], FinetuneTowers.text_lora)
    with pytest.raises(TypeError, match=r"Closed\.embed_captions lets no gradient through"):
        inputs.text(torch.tensor([0]))


def test_the_settings_come_from_the_command_line():
    lora = ["reward.head.finetune_towers=text_lora", "reward.head.lora_rank=4", "reward.clap_checkpoint=some"]
    assert load_config(lora).reward.head.lora_rank == 4
    with pytest.raises(ConfigError, match=r"reward\.head\.lora_rank must be above 0"):
        load_config(["reward.head.lora_rank=0"])
    with pytest.raises(ConfigError, match="must be none or text_lora where clap_checkpoint names"):
        load_config(["reward.head.finetune_towers=all", "reward.clap_checkpoint=some"])
