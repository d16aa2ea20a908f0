"""Replacing a live reward model: a candidate is probed beside it, and only then may it take its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32
from scipy.stats import spearmanr

from rlcap.config.reward import ProbeConfig
from rlcap.errors import RewardError, RlcapError
from rlcap.protocols import RewardModel
from rlcap.types import RewardRequest


class VersionedModel(RewardModel, Protocol):
    """A reward model that names its version."""

    @property
    def version(self) -> str:
        """Hash of all that decides a score."""
        ...


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """A candidate's scores on the probe set, beside those of the live model."""

    live_version: str
    candidate_version: str
    num_scores: int
    num_not_finite: int
    spread: float
    """Standard deviation of the candidate's finite scores."""
    rank_agreement: float | None
    """Spearman correlation with the live scores; None where one of the two has no order."""
    faults: tuple[str, ...]
    """Why the candidate must not go live; empty where it may."""


@dataclass(frozen=True, slots=True)
class Edition:
    """A model, and its place in the order of what was live."""

    generation: int
    model: VersionedModel


class Editions:
    """The models that a shard holds: live, the one before, and a staged candidate.

    Generations number what was live: every commit and every rollback makes a new one, so a higher one is later.
    """

    def __init__(self, generation: int, model: VersionedModel) -> None:
        self.live = Edition(generation, model)
        self._previous: VersionedModel | None = None
        self._staged: VersionedModel | None = None

    def stage(self, candidate: VersionedModel, probe_set: RewardRequest, config: ProbeConfig) -> ProbeReport:
        """Probe a candidate, and keep it beside the live model where it has no fault."""
        report = probe(self.live.model, candidate, probe_set, config)
        self._staged = None if report.faults else candidate
        return report

    def discard_staged(self) -> None:
        """Let go of the candidate."""
        self._staged = None

    def adopt(self, generation: int, version: str, load: Callable[[], VersionedModel]) -> None:
        """Make `version` live as `generation`; `load` is called only where it is not held already.

        Nothing happens where the shard is that far or further.
        """
        if generation <= self.live.generation:
            return
        candidates = (self.live.model, self._previous, self._staged)
        held = {model.version: model for model in candidates if model is not None}
        model = held.get(version) or load()
        if model.version != version:
            raise RewardError(f"generation {generation} must be reward version {version}, got {model.version}")
        self._previous, self.live, self._staged = self.live.model, Edition(generation, model), None


def probe(
    live: VersionedModel, candidate: VersionedModel, probe_set: RewardRequest, config: ProbeConfig
) -> ProbeReport:
    """Score the probe set by both models. A candidate that raises has a fault, like one whose scores are no use."""
    try:
        scores = _scores(candidate, probe_set)
    except (RlcapError, ValueError, RuntimeError) as error:
        fault = f"it cannot score the probe set: {error}"
        return ProbeReport(live.version, candidate.version, len(probe_set.captions), 0, 0.0, None, (fault,))
    finite = np.isfinite(scores)
    num_not_finite = int((~finite).sum())
    spread = float(scores[finite].std()) if finite.any() else 0.0
    agreement = None if num_not_finite else _rank_agreement(_scores(live, probe_set), scores)
    faults = []
    if num_not_finite:
        faults.append(f"{num_not_finite} of its {len(scores)} scores are not finite")
    if spread < config.min_spread:
        faults.append(f"its scores spread by {spread:.3g}, less than min_spread {config.min_spread:.3g}")
    if agreement is not None and agreement < config.min_rank_agreement:
        faults.append(f"its rank agreement {agreement:.3f} is below min_rank_agreement {config.min_rank_agreement:.3f}")
    return ProbeReport(live.version, candidate.version, len(scores), num_not_finite, spread, agreement, tuple(faults))


def _scores(model: VersionedModel, request: RewardRequest) -> Float32[np.ndarray, " batch"]:
    return model.score(model.embed_audio(request.clips), request.captions, request.clip_index)


def _rank_agreement(live: Float32[np.ndarray, " batch"], candidate: Float32[np.ndarray, " batch"]) -> float | None:
    if not np.isfinite(live).all() or np.ptp(live) == 0 or np.ptp(candidate) == 0:
        return None
    return float(spearmanr(live, candidate).statistic)
