"""What is peculiar to encoder-decoders: how captions begin, what they may not hold, and processors in two parts."""

import json

import pytest
import torch
from plain_captioner import PlainCaptioner
from tiny_captioners import PROMPTS, adopt, heard, sample, scored
from tiny_models import ENCODER_DECODERS, WHISPER_PROMPT
from transformers import AutoFeatureExtractor, AutoTokenizer

from rlcap.captioners.captioner import FORBIDDEN
from rlcap.errors import CheckpointError

every_encoder_decoder = pytest.mark.parametrize("architecture", ENCODER_DECODERS)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@every_encoder_decoder
def test_captions_begin_as_the_library_begins_them_and_then_with_the_prompt(tiny_checkpoint, make_clips, architecture):
    directory = tiny_checkpoint(architecture)
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    (begun,) = plain.inputs(make_clips(1.0)[0].waveform)["decoder_input_ids"].tolist()
    context = captioner.context(heard(captioner, make_clips(1.0, 0.5)))
    embedding = captioner.token_embedding(torch.tensor(begun))
    assert torch.equal(context.prefix, embedding.expand(2, -1, -1))
    text = captioner.tokenizer.decode(begun, skip_special_tokens=True)
    assert text.strip() == PROMPTS[architecture].strip()


def test_whisper_begins_with_language_task_and_no_timestamps(tiny_checkpoint):
    captioner = adopt("whisper", tiny_checkpoint("whisper"))
    begun = captioner.tokenizer.decode(captioner._prompt_ids)
    assert begun == f"<|startoftranscript|><|en|><|transcribe|><|notimestamps|>{WHISPER_PROMPT}"


def test_steps_that_read_the_audio_by_cross_attention_are_not_compiled(tiny_checkpoint):
    with pytest.raises(CheckpointError, match=r"cross-attention cannot be compiled: set sampling\.compile=false"):
        adopt("whisper", tiny_checkpoint("whisper")).compile_steps()


def test_what_generation_suppresses_is_never_written_nor_counted_however_hot(tiny_checkpoint, make_clips):
    captioner = adopt("whisper", tiny_checkpoint("whisper"))
    encoding, index = heard(captioner, make_clips(1.0)), torch.zeros(300, dtype=torch.long)
    sampled = sample(captioner, encoding, index, temperature=50.0, seed=0)
    later = set(sampled.tokens[:, 1:].unique().tolist())
    first = set(sampled.tokens[:, 0].tolist())
    everywhere, at_first = set(captioner.forbidden_tokens), set(captioner.forbidden_first_tokens)
    assert everywhere
    assert at_first
    assert not (first | later) & everywhere
    assert not first & at_first
    assert at_first <= later
    hidden = captioner.begin(encoding, index[:2], 2)[1]
    logits = captioner.next_token_logits(hidden, torch.tensor([True, False]))
    assert (logits == FORBIDDEN).sum(dim=1).tolist() == [len(everywhere | at_first), len(everywhere)]
    entropy = scored(captioner, encoding, index, sampled).entropy
    assert entropy[:, 0].max() <= torch.tensor(64 - len(everywhere | at_first)).log() + 1e-4


@pytest.mark.parametrize("architecture", ["speech_gpt2", "speech_bart"])
def test_a_feature_extractor_and_a_tokenizer_that_were_saved_apart_will_do(
    tiny_checkpoint, make_clips, architecture, tmp_path
):
    directory = tiny_checkpoint(architecture)
    together = adopt(architecture, directory)
    together.model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    AutoFeatureExtractor.from_pretrained(directory).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("processor_class", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    apart, clips = adopt(architecture, tmp_path), make_clips(1.0)
    assert torch.equal(heard(apart, clips).states, heard(together, clips).states)
    apart.save(tmp_path / "saved")
    assert torch.equal(heard(adopt(architecture, tmp_path / "saved"), clips).states, heard(together, clips).states)


def test_a_model_that_names_no_start_is_refused(tiny_checkpoint, tmp_path):
    adopt("speech_gpt2", tiny_checkpoint("speech_gpt2")).save(tmp_path)
    for file in ("config.json", "generation_config.json"):
        edit_json(tmp_path / file, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(CheckpointError, match="names no decoder_start_token_id"):
        adopt("speech_gpt2", tmp_path)
