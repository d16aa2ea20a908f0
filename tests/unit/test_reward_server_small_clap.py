import json

import numpy as np
import pytest
import torch

from reward_server.clap_training import contrastive_loss, retrieval, train_clap
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig
from rlcap.errors import CheckpointError
from rlcap.types import Clip, PolicyFeatures

CAPTIONS = ["a dog barks", "a cat meows then a dog barks", "rain falls"]
CONFIG = ClapConfig(
    embedding_dim=16,
    audio_channels=[4, 4, 8, 8],
    num_segments=4,
    text_width=16,
    num_heads=2,
    batch_size=16,
    num_epochs=3,
)


def small_clap(seed=0):
    return SmallClap.for_captions(CONFIG, CAPTIONS, LogMelConfig(), seed=seed).eval()


def noise(num_clips, num_frames=64, seed=0):
    frames = np.random.default_rng(seed).standard_normal((num_clips, num_frames, 64)).astype(np.float32)
    return PolicyFeatures(frames, np.ones((num_clips, num_frames), dtype=bool))


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 50])
def test_padding_changes_no_embedding(num_frames):
    clap, short = small_clap(), noise(1, num_frames)
    frames = np.full((1, 90, 64), np.nan, dtype=np.float32)
    frames[:, :num_frames] = short.frames
    padded = PolicyFeatures(frames, np.arange(90)[None] < num_frames)
    with torch.inference_mode():
        torch.testing.assert_close(clap.embed_features(padded), clap.embed_features(short), rtol=1e-4, atol=1e-5)
        texts = clap.embed_captions([CAPTIONS[0], CAPTIONS[1]])
        torch.testing.assert_close(texts[:1], clap.embed_captions([CAPTIONS[0]]), rtol=1e-4, atol=1e-5)


def test_the_order_of_sounds_and_of_words_is_heard():
    clap, heard = small_clap(), noise(1)
    backwards = PolicyFeatures(heard.frames[:, ::-1].copy(), heard.frame_mask)
    with torch.inference_mode():
        assert not torch.allclose(clap.embed_features(heard), clap.embed_features(backwards), atol=1e-3)
        one, other = clap.embed_captions(["a dog barks then a cat meows", "a cat meows then a dog barks"])
    assert not torch.allclose(one, other, atol=1e-3)


def test_case_and_punctuation_do_not_matter_and_an_empty_caption_is_embedded():
    clap = small_clap()
    with torch.inference_mode():
        plain, loud, empty = clap.embed_captions(["a dog barks", "A DOG, barks!", ""])
    torch.testing.assert_close(plain, loud)
    assert empty.isfinite().all()


def test_long_captions_are_cut():
    with torch.inference_mode():
        assert small_clap().embed_captions(["dog " * 500]).isfinite().all()


def test_a_clip_is_embedded_alike_to_the_last_bit_in_any_company():
    clap = small_clap()
    rng = np.random.default_rng(0)
    clips = [Clip(str(i), rng.standard_normal(4000 + 999 * i).astype(np.float32) / 9, 16_000) for i in range(3)]
    together = clap.embed_clips(clips)
    assert np.array_equal(together[1:2], clap.embed_clips(clips[1:2]))


def test_other_sample_rates_are_resampled():
    tone = np.sin(np.arange(44_100, dtype=np.float32) / 20)
    embedding = small_clap().embed_clips([Clip("a", tone, 44_100)])
    assert embedding.shape == (1, 16)
    assert embedding.dtype == np.float32


def test_what_was_saved_is_loaded(tmp_path):
    clap = small_clap()
    clap.save(tmp_path)
    loaded = SmallClap.load(tmp_path)
    assert loaded.fingerprint == clap.fingerprint
    assert loaded.encoder_fingerprint == clap.encoder_fingerprint
    with torch.inference_mode():
        assert torch.equal(loaded.embed_captions(CAPTIONS), clap.embed_captions(CAPTIONS))


def test_fingerprints_tell_audio_towers_apart_but_not_their_text_towers():
    one, other = small_clap(), small_clap(seed=1)
    assert one.encoder_fingerprint != other.encoder_fingerprint
    other.audio_tower.load_state_dict(one.audio_tower.state_dict())
    assert one.encoder_fingerprint == other.encoder_fingerprint
    assert one.fingerprint != other.fingerprint


def test_a_checkpoint_of_another_architecture_names_what_differs(tmp_path):
    small_clap().save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**settings, "text_width": 32}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"text_tower.*has shape \(.*16.*\), expected \(.*32.*\)"):
        SmallClap.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_checkpoint_is_explained(name, tmp_path):
    small_clap().save(tmp_path)
    (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        SmallClap.load(tmp_path)


def test_a_missing_checkpoint_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match=r"none/config\.json cannot be read"):
        SmallClap.load(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not describe a small CLAP"):
        SmallClap.load(tmp_path)


def slow_contrastive_loss(audio, text, same, scale):
    audio, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (audio, text))
    logits = scale * audio @ text.T
    total = 0.0
    for table in (logits, logits.T):
        for row in range(len(table)):
            log_softmax = table[row] - np.log(np.exp(table[row]).sum())
            total -= log_softmax[same[row]].mean() / (2 * len(table))
    return total


def test_the_contrastive_loss_is_that_of_a_slow_oracle():
    rng = np.random.default_rng(0)
    audio, text = rng.standard_normal((2, 6, 5))
    captions = np.array([0, 1, 0, 2, 2, 2])
    same = captions[:, None] == captions[None, :]
    found = contrastive_loss(*(torch.from_numpy(x) for x in (audio, text, same)), torch.tensor(3.0))
    assert found.item() == pytest.approx(slow_contrastive_loss(audio, text, same, 3.0), rel=1e-6)


def tones(num_clips):
    """Clips of three kinds that differ in which mel bands sound."""
    heard = noise(num_clips, 32)
    kinds = np.arange(num_clips) % 3
    for clip, kind in enumerate(kinds):
        heard.frames[clip, :, 20 * kind : 20 * kind + 20] += 4
    return heard, [CAPTIONS[kind] for kind in kinds]


def test_training_learns_to_tell_sounds_apart_and_reports_each_epoch():
    heard, captions = tones(90)
    seen = []
    config = ClapConfig(**{**vars(CONFIG), "num_epochs": 12, "learning_rate": 5e-3})
    clap, metrics = train_clap(heard, captions, config, seen.append, seed=0)
    assert [progress.epoch for progress in seen] == list(range(12))
    assert metrics.train_losses[-1] < metrics.train_losses[0]
    assert metrics.retrieval_at_1 == 1.0
    assert metrics.num_validation_clips == 9
    assert retrieval(clap, heard, captions) == (1.0, 1.0)


def test_the_same_seed_trains_the_same_weights_and_leaves_the_global_generator_alone():
    heard, captions = tones(40)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    config = ClapConfig(**{**vars(CONFIG), "augment": True})
    one, _ = train_clap(heard, captions, config, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    other, _ = train_clap(heard, captions, config, seed=0)
    assert one.fingerprint == other.fingerprint
    different, _ = train_clap(heard, captions, config, seed=1)
    assert one.fingerprint != different.fingerprint


def test_clips_and_captions_that_do_not_fit_are_refused():
    heard, captions = tones(6)
    with pytest.raises(ValueError, match="got 5 captions for 6 clips"):
        train_clap(heard, captions[:5], CONFIG, seed=0)
    with pytest.raises(ValueError, match="at least 3"):
        train_clap(*tones(2), CONFIG, seed=0)
