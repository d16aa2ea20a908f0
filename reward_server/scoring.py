"""The reward model: CLAP, head and text terms in one, with a version that is the hash of its content."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Int64
from safetensors.torch import save_file
from torch import Tensor

from reward_server.clap import Clap
from reward_server.clap_loading import load_clap
from reward_server.custom_terms import custom_values, find_text_terms
from reward_server.heads import EnsembleHead, Head, build_head
from reward_server.small_clap import content_hash, load_weights
from reward_server.text_terms import weighted_terms
from rlcap.config.reward import Ensemble, HeadConfig, HeadKind, TextTermsConfig
from rlcap.errors import CheckpointError, ConfigError, DataError, RowError
from rlcap.tables.json_values import read_json_object
from rlcap.tables.rows import Row, described, whole_number
from rlcap.types import Clip

SETTINGS_FILE, HEAD_FILE, CLAP_FOLDER = "reward.json", "head.safetensors", "clap"


class ClapReward:
    """Scores (clip, caption) by a head over CLAP embeddings plus weighted text terms; a `RewardModel`.

    Raises ConfigError where `terms` names a custom term that is not known here. The functions behind such names travel
    with the model to other processes.
    """

    def __init__(
        self,
        clap: Clap,
        head: Head,
        terms: TextTermsConfig | None = None,
        *,
        sigmoid_output: bool = False,
    ) -> None:
        self._clap = clap.eval().requires_grad_(False)
        self._head = head.eval().requires_grad_(False)
        self._terms = terms or TextTermsConfig()
        self._custom_weights = {name: weight for name, weight in self._terms.custom.items() if weight}
        self._custom_terms = find_text_terms(self._custom_weights)
        self._sigmoid_output = sigmoid_output
        self._device = torch.device("cpu")
        self._encoder_fingerprint = clap.encoder_fingerprint
        self._towers_fingerprint = clap.fingerprint
        self._towers_bytes = _num_bytes(clap.state_dict())
        settings = json.dumps([self._towers_fingerprint, self._settings()], sort_keys=True)
        self._version = content_hash(settings.encode(), head.state_dict())

    @property
    def version(self) -> str:
        """Hash of all that decides a score: 16 hexadecimal digits."""
        return self._version

    @property
    def encoder_fingerprint(self) -> str:
        """Hash of what makes audio embeddings."""
        return self._encoder_fingerprint

    @property
    def head(self) -> Head:
        """What turns two embeddings into a score."""
        return self._head

    def with_head(self, head: Head) -> ClapReward:
        """Another model over the same towers."""
        return ClapReward(self._clap, head, self._terms, sigmoid_output=self._sigmoid_output)

    @property
    def towers(self) -> Clap:
        """What embeds clips and captions."""
        return self._clap

    @property
    def towers_fingerprint(self) -> str:
        """Hash of the towers: models with the same one can share them."""
        return self._towers_fingerprint

    @property
    def towers_bytes(self) -> int:
        """Memory that the towers' weights take."""
        return self._towers_bytes

    @property
    def num_bytes(self) -> int:
        """Memory that all weights take."""
        return self._towers_bytes + _num_bytes(self._head.state_dict())

    def without_towers(self) -> ClapReward:
        """A copy to be sent where the towers are already: it scores again once `over` has given it some."""
        top = copy.copy(self)
        del top._clap
        return top

    def over(self, towers: Clap) -> ClapReward:
        """A copy over these towers, which must be those that it was made with."""
        whole = copy.copy(self)
        whole._clap = towers
        return whole

    def to(self, device: torch.device) -> Self:
        """Move the towers and the head to a device; returns itself."""
        self._clap.to(device)
        self._head.to(device)
        self._device = device
        return self

    def embed_audio(self, clips: Sequence[Clip]) -> Float32[np.ndarray, "clip dim"]:
        """One embedding a clip; does not depend on the other clips in the call."""
        return self._clap.embed_clips(clips)

    @torch.inference_mode()
    def score(
        self,
        audio: Float32[np.ndarray, "clip dim"],
        captions: Sequence[str],
        clip_index: Int64[np.ndarray, " batch"],
    ) -> Float32[np.ndarray, " batch"]:
        """One score a caption, in order; higher is better. Captions that coincide are read once.

        NaN where a custom text term gives no finite number.

        Raises:
            RewardError: a custom text term raises.
        """
        if not captions:
            return np.zeros(0, dtype=np.float32)
        place = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
        text = self._clap.embed_captions(list(place))[[place[caption] for caption in captions]]
        raw = self._head(torch.from_numpy(audio[clip_index]).to(self._device), text)
        scores: Float32[np.ndarray, " batch"] = (raw.sigmoid() if self._sigmoid_output else raw).cpu().numpy()
        scores += weighted_terms(captions, self._terms)
        if self._custom_terms:
            scores += custom_values(captions, self._custom_terms, self._custom_weights)
        return scores

    def save(self, directory: Path) -> None:
        """Write reward.json, head.safetensors and the folder clap/ into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        self._clap.save(directory / CLAP_FOLDER)
        weights = {name: value.contiguous() for name, value in self._head.state_dict().items()}
        save_file(weights, directory / HEAD_FILE)
        settings = {"version": self._version, **self._settings()}
        (directory / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> ClapReward:
        """Read what `save` wrote. Raises CheckpointError that names what is missing, damaged or differs."""
        settings = _read_settings(directory / SETTINGS_FILE)
        clap = load_clap(directory / CLAP_FOLDER)
        head = build_head(settings["head"], clap.embedding_dim, seed=0)  # its weights are loaded
        load_weights(head, directory / HEAD_FILE)
        try:
            reward = cls(clap, head, settings["terms"], sigmoid_output=settings["sigmoid_output"])
        except ConfigError as error:
            raise CheckpointError(f"the reward model in {directory} needs what is missing here: {error}") from error
        if reward.version != settings["version"]:
            raise CheckpointError(
                f"the reward model in {directory} is damaged: its content has version {reward.version}, "
                f"but it was saved as {settings['version']}; save or copy it again"
            )
        return reward

    def _settings(self) -> dict[str, Any]:
        terms = {name: value for name, value in asdict(self._terms).items() if name != "custom"}
        if self._custom_weights:
            terms["custom"] = self._custom_weights
        return {
            "head": self._head.kind.value,
            "hidden_sizes": self._head.hidden_sizes,
            "sigmoid_output": self._sigmoid_output,
            "text_terms": terms,
            **_ensemble_settings(self._head),
        }


def _ensemble_settings(head: Head) -> dict[str, Any]:
    if not isinstance(head, EnsembleHead):
        return {}
    return {"num_members": len(head.members), "ensemble": head.ensemble.value, "std_weight": head.std_weight}


def _num_bytes(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = read_json_object(path)
        settings = Row(1, path.name, found)
        return {
            "version": settings.text("version"),
            "sigmoid_output": settings.flag("sigmoid_output"),
            "head": HeadConfig(
                kind=HeadKind(found["head"]),
                hidden_sizes=_whole_numbers(found["hidden_sizes"]),
                num_members=settings.whole("num_members") if "num_members" in found else 1,
                ensemble=Ensemble(found.get("ensemble", Ensemble.mean.value)),
                std_weight=settings.figure("std_weight") if "std_weight" in found else 1.0,
            ),
            "terms": TextTermsConfig(**found["text_terms"]),
        }
    except (DataError, RowError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not describe a reward model: {error}; fit one or give its folder"
        ) from error


def _whole_numbers(values: object) -> list[int]:
    numbers = [whole_number(value) for value in values] if isinstance(values, list) else [None]
    if None in numbers:
        raise RowError(f"column 'hidden_sizes': expected a list of whole numbers, found {described(values)}")
    return [number for number in numbers if number is not None]
