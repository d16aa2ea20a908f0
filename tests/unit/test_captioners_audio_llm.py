"""What is peculiar to audio LLMs: the chat, the placeholder of the audio, and clips at the edge of their window."""

import json

import pytest
import torch
from plain_captioner import PlainCaptioner
from tiny_captioners import PROMPTS, adopt, count_heard_clips, heard, sample, written
from tiny_models import AUDIO_LLMS, LONGEST_S

from rlcap.captioners.audio_llm import DEFAULT_PROMPT
from rlcap.captioners.loading import adopt_captioner
from rlcap.config.captioner import CaptionerConfig
from rlcap.errors import CheckpointError
from rlcap.types import Clip

every_llm = pytest.mark.parametrize("architecture", AUDIO_LLMS)
CLOSE = {"rtol": 0, "atol": 1e-4}


def silence(duration_s):
    return Clip("silence", torch.zeros(round(duration_s * 16_000)).numpy(), 16_000)


@every_llm
def test_the_chat_is_the_template_s_own_with_the_audio_in_its_place(tiny_checkpoint, make_clips, architecture):
    directory, (clip,) = tiny_checkpoint(architecture), make_clips(1.0)
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    (tokens,) = plain.inputs(clip.waveform)["input_ids"]
    is_audio = tokens == plain.processor.audio_token_id
    encoding = heard(captioner, [clip])
    assert encoding.states.shape[1] == len(tokens)
    embedding = captioner.token_embedding.weight.detach()
    assert torch.equal(encoding.states[0][~is_audio], embedding[tokens[~is_audio]])
    assert "Describe the sounds." in captioner.tokenizer.decode(tokens)


@every_llm
@pytest.mark.parametrize("duration_s", [0.1, LONGEST_S - 0.01, LONGEST_S, 2.5 * LONGEST_S])
@pytest.mark.parametrize("silent", [False, True])
def test_clips_at_the_edges_and_silence_are_captioned_as_the_library_does(
    tiny_checkpoint, make_clips, architecture, duration_s, silent
):
    directory = tiny_checkpoint(architecture)
    clip = silence(duration_s) if silent else make_clips(duration_s)[0]
    captioner, plain = adopt(architecture, directory), PlainCaptioner(directory, PROMPTS[architecture])
    sampled = sample(captioner, heard(captioner, [clip]), torch.tensor([0]))
    assert sampled.log_probs.isfinite().all()
    settings = {"repetition_penalty": 1.0, "suppress_tokens": [plain.processor.audio_token_id]}
    assert written(captioner, sampled) == plain.greedy(clip.waveform, max_new_tokens=10, **settings)


@pytest.mark.parametrize("freeze_encoder", [True, False])
@pytest.mark.parametrize(("architecture", "num_windows"), [("qwen2_audio", 1), ("audio_flamingo_3", 3)])
def test_a_long_clip_is_heard_in_as_many_windows_as_the_library_hears(
    tiny_checkpoint, make_clips, architecture, num_windows, freeze_encoder
):
    captioner = adopt(architecture, tiny_checkpoint(architecture), freeze_encoder=freeze_encoder)
    counts = count_heard_clips(captioner)
    alone = heard(captioner, make_clips(2.5 * LONGEST_S))
    assert counts == [num_windows]
    together = heard(captioner, [*make_clips(2.5 * LONGEST_S), *make_clips(0.5)])
    assert counts == [num_windows, num_windows + 1]
    torch.testing.assert_close(together.states[:1], alone.states, **CLOSE)
    assert together.mask.sum(dim=1).tolist()[0] == alone.states.shape[1]


def test_what_lies_beyond_the_longest_audio_is_not_heard(tiny_checkpoint, make_clips):
    captioner = adopt("audio_flamingo_3", tiny_checkpoint("audio_flamingo_3"))
    captioner.processor.max_audio_len = 2 * LONGEST_S
    counts = count_heard_clips(captioner)
    captioner.features(make_clips(10 * LONGEST_S))
    assert counts == [2]


@every_llm
def test_the_placeholder_is_never_written_however_hot(tiny_checkpoint, make_clips, architecture):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    index = torch.zeros(200, dtype=torch.long)
    sampled = sample(captioner, heard(captioner, make_clips(1.0)), index, temperature=50.0, seed=0)
    assert len(sampled.tokens.unique()) > 40
    assert not (sampled.tokens == captioner.processor.audio_token_id).any()


@every_llm
def test_without_a_prompt_it_is_asked_for_a_description(tiny_checkpoint, make_clips, architecture):
    directory, clips = tiny_checkpoint(architecture), make_clips(1.0)
    unasked, asked = (adopt_captioner(directory, CaptionerConfig(prompt=prompt)) for prompt in ("", DEFAULT_PROMPT))
    assert torch.equal(heard(unasked, clips).states, heard(asked, clips).states)


@every_llm
@pytest.mark.parametrize("found", [0, 2])
def test_a_chat_template_without_one_place_for_the_audio_is_refused(tiny_checkpoint, architecture, found, tmp_path):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    captioner.save(tmp_path)
    placeholder = captioner.processor.audio_token
    (tmp_path / "chat_template.jinja").write_text("What is this? " + found * placeholder)
    with pytest.raises(CheckpointError, match="has no single place for a clip"):
        adopt_captioner(tmp_path, CaptionerConfig())


@every_llm
def test_the_saved_settings_of_generation_draw_from_what_was_tuned(tiny_checkpoint, architecture, tmp_path):
    captioner = adopt(architecture, tiny_checkpoint(architecture))
    captioner.save(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert "repetition_penalty" not in saved
    assert saved["suppress_tokens"] == [captioner.processor.audio_token_id]
    assert sorted(saved["eos_token_id"]) == [0, 2]
