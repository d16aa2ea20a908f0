import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlcap.captioners.loading import load_captioner
from rlcap.captioners.prefix_parts import build_prefix_captioner
from rlcap.captioners.tokenizer import build_word_tokenizer
from rlcap.config.captioner import CaptionerConfig
from rlcap.errors import CheckpointError
from rlcap.types import PolicyFeatures

CLOSE = {"rtol": 0, "atol": 1e-4}
CAPTIONS = ("a dog barks", "rain", "a dog barks then rain falls", "")


def encoded(captioner, clips):
    features = captioner.features(clips)
    return captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))


def scored(captioner, clips, clip_index, captions=CAPTIONS, temperature=1.0):
    tokens, mask = captioner.tokenize(captions)
    with torch.no_grad():
        return captioner.log_probs(encoded(captioner, clips), torch.tensor(clip_index), tokens, mask, temperature)


def padded(features, extra):
    return PolicyFeatures(
        np.pad(features.frames, ((0, 0), (0, extra), (0, 0))), np.pad(features.frame_mask, ((0, 0), (0, extra)))
    )


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_scores_are_those_of_the_plain_language_model(make_captioner, make_clips, freeze_encoder, temperature, llama):
    captioner, clips = make_captioner(freeze_encoder=freeze_encoder, llama=llama), make_clips(1.0, 2.5)
    index = [0, 1, 1, 0]
    found = scored(captioner, clips, index, temperature=temperature)
    tokens, mask = captioner.tokenize(CAPTIONS)
    for row, clip in enumerate(index):
        prefix = encoded(captioner, clips[clip : clip + 1]).states
        length = int(mask[row].sum())
        words = captioner.language_model.get_input_embeddings()(tokens[row : row + 1, :length])
        with torch.no_grad():
            logits = captioner.language_model(inputs_embeds=torch.cat([prefix, words], dim=1)).logits
        expected = (logits[0, prefix.shape[1] - 1 : -1].double() / temperature).log_softmax(-1)
        log_probs = expected.gather(-1, tokens[row, :length, None]).squeeze(-1)
        entropy = -(expected.exp() * expected).sum(-1)
        torch.testing.assert_close(found.log_probs[row, :length].double(), log_probs, **CLOSE)
        torch.testing.assert_close(found.entropy[row, :length].double(), entropy, **CLOSE)


def test_nothing_is_said_of_padding_whatever_it_holds(make_captioner, make_clips):
    captioner, clips = make_captioner(), make_clips(1.0)
    tokens, mask = captioner.tokenize(CAPTIONS)
    index = torch.zeros(4, dtype=torch.long)
    filled = torch.where(mask, tokens, 10**6)  # beyond the vocabulary
    one = captioner.log_probs(encoded(captioner, clips), index, tokens, mask, 1.0)
    other = captioner.log_probs(encoded(captioner, clips), index, filled, mask, 1.0)
    for name in ("log_probs", "values", "entropy"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert not getattr(one, name)[~mask].any()


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_a_clip_is_scored_alike_whatever_else_is_in_the_batch(make_captioner, make_clips, freeze_encoder):
    captioner, clips = make_captioner(freeze_encoder=freeze_encoder), make_clips(1.0, 6.0, 0.05, 2.0)
    together = scored(captioner, clips, [3, 1, 0, 2])
    for row, clip in enumerate([3, 1, 0, 2]):
        alone = scored(captioner, clips[clip : clip + 1], [0], CAPTIONS[row : row + 1])
        length = alone.log_probs.shape[1]
        for name in ("log_probs", "values", "entropy"):
            torch.testing.assert_close(getattr(together, name)[row, :length], getattr(alone, name)[0], **CLOSE)


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_padding_of_the_audio_changes_nothing(make_captioner, make_clips, freeze_encoder):
    captioner = make_captioner(freeze_encoder=freeze_encoder)
    features = captioner.features(make_clips(1.0, 2.0))
    expected = captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask)).states
    for extra in (1, 16, 333):
        more = padded(features, extra)
        found = captioner.encode(torch.from_numpy(more.frames), torch.from_numpy(more.frame_mask)).states
        torch.testing.assert_close(found, expected, **CLOSE)


def test_the_value_never_sees_the_temperature(make_captioner, make_clips):
    captioner, clips = make_captioner(), make_clips(1.0)
    cold, hot = (scored(captioner, clips, [0] * 4, temperature=temperature) for temperature in (0.5, 2.0))
    assert torch.equal(cold.values, hot.values)
    assert not torch.equal(cold.log_probs, hot.log_probs)


def test_the_critic_cannot_bend_the_policy(make_captioner, make_clips):
    captioner, clips = make_captioner(freeze_encoder=False), make_clips(1.0)
    tokens, mask = captioner.tokenize(CAPTIONS)
    output = captioner.log_probs(encoded(captioner, clips), torch.zeros(4, dtype=torch.long), tokens, mask, 1.0)
    output.values.sum().backward()
    touched = {name for name, parameter in captioner.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in captioner.named_parameters() if name.startswith("value_head")}


@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_the_tower_learns_only_where_it_is_not_frozen(make_captioner, make_clips, freeze_encoder):
    captioner, clips = make_captioner(freeze_encoder=freeze_encoder), make_clips(1.0)
    tokens, mask = captioner.tokenize(CAPTIONS)
    output = captioner.log_probs(encoded(captioner, clips), torch.zeros(4, dtype=torch.long), tokens, mask, 1.0)
    output.log_probs.sum().backward()
    learned = any(parameter.grad is not None for parameter in captioner.audio_tower.parameters())
    assert learned is not freeze_encoder
    assert captioner.segments_to_prefix[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("llama", [False, True])
def test_dropout_acts_in_training_only_and_the_tower_keeps_its_statistics(make_captioner, make_clips, llama):
    captioner, clips = make_captioner(dropout=0.5, llama=llama), make_clips(1.0)
    evaluated = scored(captioner, clips, [0] * 4)
    assert torch.equal(scored(captioner, clips, [0] * 4).log_probs, evaluated.log_probs)
    captioner.train()
    assert not captioner.audio_tower.training
    assert not torch.equal(scored(captioner, clips, [0] * 4).log_probs, evaluated.log_probs)
    captioner.eval()
    assert torch.equal(scored(captioner, clips, [0] * 4).log_probs, evaluated.log_probs)


def test_a_new_captioner_listens_without_changing_its_tower(make_clips):
    tokenizer = build_word_tokenizer(["a dog barks"])
    captioner = build_prefix_captioner(
        CaptionerConfig(width=16, num_layers=1, num_heads=2), tokenizer, encoder_channels=(2, 2, 4, 4), dropout=0.1
    )
    before = {name: value.clone() for name, value in captioner.audio_tower.state_dict().items()}
    alone, together = captioner.features(make_clips(1.0)), captioner.features(make_clips(1.0, 2.0))
    assert all(torch.equal(value, before[name]) for name, value in captioner.audio_tower.state_dict().items())
    num_steps = int(alone.frame_mask.sum())
    np.testing.assert_allclose(alone.frames[0, :num_steps], together.frames[0, :num_steps], atol=1e-5)


def test_captions_come_back_from_their_tokens(make_captioner):
    captioner = make_captioner()
    tokens, mask = captioner.tokenize(CAPTIONS)
    assert captioner.decode(tokens, mask) == CAPTIONS
    assert mask.sum(dim=1).tolist() == [4, 2, 7, 1]
    assert (tokens[mask.sum(dim=1, keepdim=True) - 1 == torch.arange(7)] == captioner.eos_token_ids[0]).all()
    assert (tokens[~mask] == captioner.pad_token_id).all()


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("freeze_encoder", [True, False])
def test_saved_and_loaded_it_is_the_same_to_the_bit(make_captioner, make_clips, tmp_path, freeze_encoder, llama):
    captioner = make_captioner(freeze_encoder=freeze_encoder, dropout=0.3, llama=llama)
    clips = make_clips(1.0, 3.0)
    captioner.save(tmp_path / "saved")
    loaded = load_captioner(tmp_path / "saved")
    assert loaded.config == captioner.config
    assert loaded.prefix_dropout.p == 0.3
    assert type(loaded.language_model) is type(captioner.language_model)
    assert not loaded.training
    theirs = loaded.state_dict()
    assert theirs.keys() == captioner.state_dict().keys()
    for name, value in captioner.state_dict().items():
        assert torch.equal(theirs[name], value), name
    frozen = {name for name, parameter in captioner.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == frozen
    one, other = scored(captioner, clips, [0, 1, 1, 0]), scored(loaded, clips, [0, 1, 1, 0])
    assert torch.equal(one.log_probs, other.log_probs)
    assert torch.equal(one.values, other.values)


def test_the_language_model_loads_without_rlcap(make_captioner, tmp_path):
    captioner = make_captioner()
    captioner.save(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "language_model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "language_model")
    tokens = torch.tensor([tokenizer("a dog barks").input_ids])
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(tokens).logits, captioner.language_model(tokens).logits)


@pytest.fixture
def saved(make_captioner, tmp_path):
    make_captioner().save(tmp_path / "saved")
    return tmp_path / "saved"


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


FILES = (
    "audio_encoder.safetensors",
    "value_head.safetensors",
    "language_model/config.json",
    "language_model/model.safetensors",
    "language_model/tokenizer.json",
)


@pytest.mark.parametrize("file", ["config.json", *FILES])
def test_a_missing_file_is_a_sentence(saved, file):
    (saved / file).unlink()
    with pytest.raises(CheckpointError) as refusal:
        load_captioner(saved)
    assert str(saved) in str(refusal.value)


@pytest.mark.parametrize("file", ["config.json", *FILES])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe nothing that anyone can read", b"[1, 2]"])
def test_a_damaged_file_is_a_sentence(saved, file, damage):
    (saved / file).write_bytes(damage)
    with pytest.raises(CheckpointError) as refusal:
        load_captioner(saved)
    assert str(saved) in str(refusal.value)


def test_half_a_file_is_a_sentence(saved):
    for file in ("audio_encoder.safetensors", "language_model/model.safetensors"):
        whole = (saved / file).read_bytes()
        (saved / file).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="saved"):
            load_captioner(saved)
        (saved / file).write_bytes(whole)
    load_captioner(saved)


def test_a_folder_without_a_captioner_is_a_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"holds no captioner: config\.json is missing"):
            load_captioner(folder)


def test_another_family_is_named_with_those_known(saved):
    edit_json(saved / "config.json", family="pixels")
    with pytest.raises(CheckpointError, match=r"family 'pixels'.*the families known here are prefix,"):
        load_captioner(saved)


@pytest.mark.parametrize(
    "changes",
    [{"encoder_channels": [4, 4, 8, 16]}, {"encoder_channels": [4]}, {"features": {"num_mels": 32}}, {"depth": 3}],
)
def test_another_encoder_is_refused(saved, changes):
    edit_json(saved / "config.json", **changes)
    with pytest.raises(CheckpointError, match="saved"):
        load_captioner(saved)


@pytest.mark.parametrize("changes", [{"n_layer": 3}, {"n_layer": 1}, {"n_embd": 32}, {"vocab_size": 50}])
def test_another_language_model_is_refused(saved, changes):
    edit_json(saved / "language_model/config.json", **changes)
    with pytest.raises(CheckpointError, match="saved"):
        load_captioner(saved)


def test_weights_of_another_captioner_are_refused(saved, make_captioner, tmp_path):
    make_captioner(width=32).save(tmp_path / "wider")
    for file in ("audio_encoder.safetensors", "value_head.safetensors", "language_model/model.safetensors"):
        mixed = tmp_path / "mixed"
        shutil.copytree(saved, mixed)
        shutil.copy(tmp_path / "wider" / file, mixed / file)
        with pytest.raises(CheckpointError, match="mixed"):
            load_captioner(mixed)
        shutil.rmtree(mixed)


def test_captions_longer_than_the_language_model_can_write_are_refused(make_captioner, make_clips):
    captioner = make_captioner(max_caption_tokens=6)
    encoding = encoded(captioner, make_clips(1.0))
    index = torch.zeros(2, dtype=torch.long)
    captioner.begin(encoding, index, 6)
    with pytest.raises(CheckpointError, match=r"at most 6 tokens, got max_new_tokens = 7"):
        captioner.begin(encoding, index, 7)


def test_a_new_critic_foresees_nothing(make_clips):
    settings = CaptionerConfig(width=16, num_heads=2, prefix_length=4)
    captioner = build_prefix_captioner(
        settings, build_word_tokenizer(("a", "dog")), encoder_channels=(4, 4, 8, 8), dropout=0.1
    ).eval()
    assert not scored(captioner, make_clips(1.0), [0] * 4).values.any()
