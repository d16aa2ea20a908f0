import numpy as np
import pytest
import torch

from reward_server.fitting import fit_preferences, pair_accuracy
from reward_server.heads import CosineHead, MlpHead
from reward_server.small_clap import SmallClap
from rlcap.audio.features import LogMelConfig
from rlcap.config.reward import ClapConfig, FinetuneTowers, HeadConfig, HeadKind
from rlcap.errors import DataError
from rlcap.preferences.pairs import PreferencePair
from rlcap.types import PolicyFeatures

SOUNDS = ["a dog barks", "a cat meows", "rain falls", "an engine runs"]
CLAP = ClapConfig(embedding_dim=32, audio_channels=[8, 8, 8, 8], num_segments=4, text_width=16, num_heads=2)
HEAD = HeadConfig(hidden_sizes=[64, 16], batch_size=64, learning_rate=3e-3, num_epochs=15, patience=15, dropout=0.0)


def world(num_clips=120):
    """Clips whose sound is a band of mels, and pairs of the true caption against a wrong one."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(4, size=num_clips)
    frames = rng.standard_normal((num_clips, 32, 64)).astype(np.float32)
    for clip, kind in enumerate(kinds):
        frames[clip, :, 16 * kind : 16 * kind + 16] += 3
    pairs = []
    for clip, kind in enumerate(kinds):
        for wrong in set(range(4)) - {int(kind)}:
            pair = PreferencePair(f"clip-{clip}", SOUNDS[kind], SOUNDS[wrong], (1, 1, 1, 0))
            pairs.append(pair if rng.random() < 0.5 else pair.swapped())
    features = PolicyFeatures(frames, np.ones(frames.shape[:2], dtype=bool))
    return (
        SmallClap.for_captions(CLAP, SOUNDS, LogMelConfig(), seed=0).eval(),
        features,
        [f"clip-{i}" for i in range(num_clips)],
        pairs,
    )


def fit(*, seed=0, **changes):
    return fit_preferences(*world(), HeadConfig(**{**vars(HEAD), **changes}), seed=seed)


def test_a_head_over_frozen_towers_learns_to_match_sounds_and_captions():
    fitted = fit(finetune_towers=FinetuneTowers.none)
    assert fitted.metrics.heldout_accuracy > 0.9
    assert fitted.metrics.validation_losses[fitted.metrics.best_epoch] == min(fitted.metrics.validation_losses)
    counts = fitted.metrics.num_train_pairs, fitted.metrics.num_validation_pairs, fitted.metrics.num_heldout_pairs
    assert sum(counts) == 360


def test_matching_pairs_teach_what_no_vote_speaks_of_and_leave_the_measure_alone():
    clap, features, clip_ids, pairs = world(200)
    voted = [pair for pair in pairs if "rain" not in pair.caption_a + pair.caption_b][:240]
    matching = [pair for pair in pairs if int(pair.clip_id[5:]) >= 120]
    rain = [pair for pair in pairs if "rain" in pair.caption_a + pair.caption_b and int(pair.clip_id[5:]) < 120]

    def accuracy_on_rain(fitted):
        clips = torch.tensor([int(pair.clip_id[5:]) for pair in rain])
        with torch.no_grad():
            audio = fitted.clap.embed_features(features)[clips]
            scores = [
                fitted.head(audio, fitted.clap.embed_captions(captions))
                for captions in zip(*map(both, rain), strict=True)
            ]
        return pair_accuracy(*scores, torch.tensor([pair.majority for pair in rain]))

    def both(pair):
        return pair.caption_a, pair.caption_b

    without = fit_preferences(clap, features, clip_ids, voted, HEAD, seed=0)
    taught = fit_preferences(clap, features, clip_ids, voted, HEAD, seed=0, matching=matching)
    assert accuracy_on_rain(taught) > max(0.9, accuracy_on_rain(without))
    assert taught.metrics.num_matching_pairs == len(matching)
    assert taught.metrics.num_heldout_pairs == without.metrics.num_heldout_pairs
    assert taught.metrics.num_train_pairs == without.metrics.num_train_pairs + len(matching)


@pytest.mark.parametrize("tunes", [FinetuneTowers.projections, FinetuneTowers.all])
def test_what_is_tuned_of_the_towers_changes_and_the_given_clap_does_not(tunes):
    clap, features, clip_ids, pairs = world(40)
    before = clap.fingerprint
    config = HeadConfig(**{**vars(HEAD), "finetune_towers": tunes, "num_epochs": 2})
    fitted = fit_preferences(clap, features, clip_ids, pairs, config, seed=0)
    assert clap.fingerprint == before
    assert fitted.clap.fingerprint != before
    same_tower = all(
        torch.equal(one, other)
        for one, other in zip(
            clap.audio_tower.tower.parameters(), fitted.clap.audio_tower.tower.parameters(), strict=True
        )
    )
    assert same_tower == (tunes is FinetuneTowers.projections)


def test_a_head_over_frozen_towers_keeps_the_encoder_so_that_cached_embeddings_serve_it():
    clap, features, clip_ids, pairs = world(40)
    fitted = fit_preferences(clap, features, clip_ids, pairs, HeadConfig(**{**vars(HEAD), "num_epochs": 1}), seed=0)
    assert fitted.clap.encoder_fingerprint == clap.encoder_fingerprint


def test_a_head_that_reads_the_text_alone_cannot_match():
    assert fit(kind=HeadKind.text_only).metrics.heldout_accuracy < 0.75


def test_the_text_only_head_hears_nothing():
    head = MlpHead(8, [16, 4], hears_audio=False).eval()
    text = torch.randn(5, 8)
    assert torch.equal(head(torch.randn(5, 8), text), head(torch.randn(5, 8), text))


def test_the_same_seed_fits_the_same_head_and_another_seed_another_one():
    def weights(seed):
        torch.manual_seed(seed)  # the global generator must not matter
        return fit(num_epochs=2, seed=3, dropout=0.3).head.state_dict()

    one, other = weights(1), weights(2)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["first.weight"], fit(num_epochs=2, seed=4).head.state_dict()["first.weight"])


def test_the_fit_ends_early_and_keeps_the_best_weights():
    seen = []
    config = HeadConfig(**{**vars(HEAD), "learning_rate": 0.3, "num_epochs": 30, "patience": 2})
    metrics = fit_preferences(*world(40), config, seen.append, seed=0).metrics
    assert len(metrics.train_losses) == metrics.best_epoch + 1 + 2
    assert [progress.validation_loss for progress in seen] == list(metrics.validation_losses)


def test_the_cosine_head_is_used_as_it_is():
    fitted = fit(kind=HeadKind.cosine)
    assert fitted.metrics.train_losses == ()
    assert fitted.metrics.best_epoch == -1
    audio, text = torch.randn(2, 4, 8)
    expected = [torch.dot(a, t) / a.norm() / t.norm() for a, t in zip(audio, text, strict=True)]
    torch.testing.assert_close(CosineHead()(audio, text), torch.stack(expected))


def test_accuracy_counts_equal_scores_half_and_leaves_ties_out():
    scores_a, scores_b = torch.tensor([2.0, 0.0, 1.0, 5.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert pair_accuracy(scores_a, scores_b, torch.tensor([1, 1, -1, 0])) == 0.5


def test_pairs_without_audio_are_named():
    clap, features, clip_ids, _ = world(10)
    with pytest.raises(DataError, match="1 clips of the preference pairs have no audio, the first being 'gone'"):
        fit_preferences(clap, features, clip_ids, [PreferencePair("gone", "x", "y", (1,))], HEAD, seed=0)


def test_too_few_clips_to_split_are_explained():
    clap, features, clip_ids, pairs = world(1)
    with pytest.raises(DataError, match="part of the preference pairs is empty"):
        fit_preferences(clap, features, clip_ids, pairs, HEAD, seed=0)


def test_votes_that_all_prefer_the_same_caption_are_fitted_too():
    clap, features, clip_ids, _ = world(40)
    pairs = [PreferencePair(clip_id, SOUNDS[0], SOUNDS[1], (1,)) for clip_id in clip_ids]
    fitted = fit_preferences(clap, features, clip_ids, pairs, HEAD, seed=0)
    assert all(parameter.isfinite().all() for parameter in fitted.head.state_dict().values())
    assert fitted.metrics.heldout_accuracy == 1
