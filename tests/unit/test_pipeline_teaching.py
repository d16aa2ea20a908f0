from types import SimpleNamespace

import numpy as np
import pytest
from torch import nn

import rlcap.pipeline.teaching
from learner.learning_rates import EVERYTHING
from rlcap.config.captioner import CaptionerConfig, SftConfig
from rlcap.config.data import Split
from rlcap.config.run import RunConfig
from rlcap.pipeline.teaching import Teacher
from rlcap.types import PolicyFeatures


class Captioner(nn.Linear):
    features = None


def teacher(captioner, **sft):
    """A teacher of two clips that everything hears alike."""
    clips = SimpleNamespace(known_captions=lambda: (("a dog",), ("rain",)))
    frames = PolicyFeatures(np.zeros((2, 3, 4), dtype=np.float32), np.ones((2, 3), dtype=bool))
    listener = SimpleNamespace(hear=lambda *_: SimpleNamespace(positions=(0, 1), audio=frames))
    return Teacher(RunConfig(captioner=captioner, sft=SftConfig(**sft)), lambda _: clips, listener)


@pytest.mark.parametrize(
    ("settings", "pretrained"),
    [
        ({}, ()),
        ({"checkpoint": "whisper"}, EVERYTHING),
        ({"language_model": "gpt2"}, ("language_model",)),
        ({"language_model": "gpt2", "audio_encoder": "clap"}, ("language_model", "audio_tower")),
    ],
)
def test_supervision_is_told_what_comes_from_elsewhere(monkeypatch, settings, pretrained):
    told = []
    monkeypatch.setattr(rlcap.pipeline.teaching, "supervise", lambda *_, **named: told.append(named))
    config = CaptionerConfig(**settings)
    teacher(config).supervise(Captioner(1, 1), [Split.captioned], SftConfig(), "teach")
    assert told == [{"pretrained": pretrained}]


@pytest.mark.parametrize("settings", [{"checkpoint": "whisper"}, {"language_model": "gpt2"}])
def test_a_language_model_that_is_given_is_taught_no_language(settings):
    assert teacher(CaptionerConfig(), text_epochs=3).texts() == ["a dog", "rain"]
    assert teacher(CaptionerConfig(**settings), text_epochs=3).texts() == []
