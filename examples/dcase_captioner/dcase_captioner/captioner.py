"""The network as rlcap takes it: six methods of `Captioner`; sampling and scoring build on these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram
from transformers import PreTrainedTokenizerFast

from dcase_captioner.network import DcaseConfig, DcaseNetwork
from rlcap.captioners.captioner import Captioner, Encoding
from rlcap.types import Clip, PolicyFeatures

SAMPLE_RATE_HZ = 16_000


class DcaseCaptioner(Captioner):
    """A `DcaseNetwork` and its tokenizer, with a critic for PPO."""

    family = "dcase"

    def __init__(self, config: DcaseConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.eos_token_ids = (tokenizer.eos_token_id,)
        self.pad_token_id = tokenizer.pad_token_id
        self.network = DcaseNetwork(config)
        self.value_head = nn.Linear(config.width, 1)
        nn.init.zeros_(self.value_head.weight)  # a new critic foresees nothing, instead of something at random
        nn.init.zeros_(self.value_head.bias)

    @torch.no_grad()
    def features(self, clips: Sequence[Clip]) -> PolicyFeatures:
        """Compute log-mel frames, each clip for itself."""
        spectrograms = [_log_mel(clip, self.config.num_mels) for clip in clips]
        lengths = np.array([len(spectrogram) for spectrogram in spectrograms])
        frames = nn.utils.rnn.pad_sequence(spectrograms, batch_first=True).numpy()
        return PolicyFeatures(frames, np.arange(lengths.max()) < lengths[:, None])

    def encode(self, frames: Float[Tensor, "clip frame mel"], frame_mask: Bool[Tensor, "clip frame"]) -> Encoding:
        """Hear each clip once for all of its captions."""
        return Encoding(*self.network.encode(frames.to(self.network.vocabulary.weight.dtype), frame_mask))

    def hidden_states(
        self,
        encoding: Encoding,
        clip_index: Int[Tensor, " batch"],
        tokens: Int[Tensor, "batch token"],
        action_mask: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "valid dim"]:
        """Predict each token from those before it; the end-of-sequence token stands before the first."""
        before = nn.functional.pad(tokens[:, :-1], (1, 0), value=self.eos_token_ids[0])
        return self.network.decode(encoding.states[clip_index], encoding.mask[clip_index], before)[action_mask]

    def logits(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Project to the vocabulary."""
        return self.network.vocabulary(hidden)

    def save(self, directory: Path) -> None:
        """Write config, weights and tokenizer, the critic in a file of its own."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps({"family": self.family, **asdict(self.config)}, indent=2))
        save_file(self.network.state_dict(), directory / "model.safetensors")
        save_file(self.value_head.state_dict(), directory / "value_head.safetensors")
        self.tokenizer.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path) -> DcaseCaptioner:
        """Read what `save` wrote."""
        settings = json.loads((directory / "config.json").read_text())
        config = DcaseConfig(**{name: value for name, value in settings.items() if name != "family"})
        captioner = cls(config, PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True))
        captioner.network.load_state_dict(load_file(directory / "model.safetensors"))
        captioner.value_head.load_state_dict(load_file(directory / "value_head.safetensors"))
        return captioner


def _log_mel(clip: Clip, num_mels: int) -> Float[Tensor, "frame mel"]:
    waveform = resample(torch.tensor(clip.waveform), clip.sample_rate_hz, SAMPLE_RATE_HZ)
    return (_mel_spectrogram(num_mels)(waveform).T + 1e-6).log() / 4


@cache
def _mel_spectrogram(num_mels: int) -> MelSpectrogram:
    # Not in the captioner, which may be moved to a GPU and to bfloat16: features are neither.
    return MelSpectrogram(SAMPLE_RATE_HZ, n_fft=1024, hop_length=320, n_mels=num_mels, pad_mode="constant")
