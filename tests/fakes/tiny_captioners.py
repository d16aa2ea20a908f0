"""The small models as captioners, and what tests do with any captioner."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tiny_models import WHISPER_PROMPT

from actors.sampler import sample_captions, score_as_drawn
from rlcap.captioners.loading import adopt_captioner
from rlcap.config.captioner import CaptionerConfig

PROMPTS = {
    "whisper": WHISPER_PROMPT,
    "speech_gpt2": "a ",
    "speech_bart": "",
    "qwen2_audio": "Describe the sounds.",
    "audio_flamingo_3": "Describe the sounds.",
}


def adopt(architecture, directory, **settings):
    """Take a checkpoint to be tuned; adapters that are saved alone are saved beside it."""
    captioner = adopt_captioner(directory, CaptionerConfig(prompt=PROMPTS[architecture], **settings))
    captioner.base = Path(directory).resolve()
    captioner.tune()
    with torch.no_grad():  # a critic that tells states apart: a new one does not
        captioner.value_head[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
    return captioner


def heard(captioner, clips):
    """Encode clips, without gradients."""
    features = captioner.features(clips)
    with torch.no_grad():
        return captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))


def sample(captioner, encoding, clip_index, *, temperature=1.0, max_new_tokens=10, seed=None, **truncation):
    """Draw captions; without a seed, the most probable ones."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    settings = {"temperature": temperature, "max_new_tokens": max_new_tokens, "generator": generator}
    sampled = sample_captions(captioner, encoding, clip_index, **settings, **truncation)
    # Tensors of inference mode have no part in gradients.
    ours = {name: one.clone() for name in sampled.__slots__ if isinstance(one := getattr(sampled, name), torch.Tensor)}
    return replace(sampled, **ours)


def scored(captioner, encoding, clip_index, sampled):
    """Score what was sampled, without gradients."""
    with torch.no_grad():
        return score_as_drawn(captioner, encoding, clip_index, sampled)


def written(captioner, sampled):
    """The tokens of each caption, up to the one that ends it."""
    rows = [row[mask].tolist() for row, mask in zip(sampled.tokens, sampled.action_mask, strict=True)]
    return [row[:-1] if row[-1] in captioner.eos_token_ids else row for row in rows]


def shake(captioner, scale=0.3, seed=0):
    """Change all that is tuned, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in captioner.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def count_heard_clips(captioner):
    """Return a list to which every pass of the encoder appends how many clips it heard."""
    counts = []
    encoder = captioner.encoder
    first = next(module for module in encoder.modules() if isinstance(module, torch.nn.Conv1d))
    first.register_forward_pre_hook(partial(_count, counts))
    return counts


def _count(counts, _module, inputs):
    counts.append(len(inputs[0]))
