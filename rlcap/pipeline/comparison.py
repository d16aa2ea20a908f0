"""The evaluation: captioners caption held-out clips, and judges whom the reward model never met compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from actors.sampler import sample_captions, score_as_drawn
from rlcap.audio.encoding import to_flac
from rlcap.captioners.captioner import Captioner
from rlcap.captioners.loading import load_captioner
from rlcap.config.captioner import SamplingConfig
from rlcap.config.training import EvaluationConfig
from rlcap.evaluation.judges import JudgePanel
from rlcap.evaluation.statistics import bootstrap_mean, describe_captions
from rlcap.pipeline.clips import CHUNK, SplitClips
from rlcap.pipeline.listening import HeardClips, hear, join_features
from rlcap.soundscapes.scene import Scene
from rlcap.types import Quarantined
from rlcap.whole_file import whole_file

BASELINE, TUNED, SUPERVISED = "baseline", "tuned", "supervised"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found, for `summary.json` and the report."""

    figures: dict[str, object]
    rows: tuple[dict[str, object], ...]
    """One held-out clip each."""
    quarantined: tuple[Quarantined, ...]


def compare(
    captioners: Mapping[str, Path],
    clips: SplitClips,
    sampling: SamplingConfig,
    evaluation: EvaluationConfig,
    *,
    seed: int,
) -> Comparison:
    """Compare the tuned captioner with each of the others: `baseline`, `supervised` and controls by any name.

    Raises:
        DataError: a clip has no label to judge by, or none could be read.
    """
    scenes = clips.known_scenes()
    heard: HeardClips | None = None
    captions: dict[str, tuple[str, ...]] = {}
    for name, path in captioners.items():
        captioner = load_captioner(path)
        heard = hear(clips.source, captioner.features, join_features, f"caption held-out clips ({name})")
        captions[name] = greedy_captions(captioner, heard, sampling.max_new_tokens)
    assert heard is not None
    panel, heard_scenes = JudgePanel(clips.lexicon), [scenes[position] for position in heard.positions]
    verdicts = _Verdicts(panel, heard_scenes, captions, evaluation.num_bootstrap, seed)
    figures = {
        **verdicts.figures(),
        "mean_kl": mean_kl(captioners, clips, sampling, seed=seed),
        "num_heldout_clips": len(heard.positions),
    }
    rows = _rows(clips, heard.positions, captions, verdicts, evaluation.num_report_clips, seed)
    return Comparison(figures, rows, heard.quarantined)


def write_heldout(comparison: Comparison, path: Path) -> None:
    """Write the held-out clips with their captions, verdicts and audio as Parquet."""
    with whole_file(path) as fresh:
        pq.write_table(pa.Table.from_pylist(list(comparison.rows)), fresh)


@torch.inference_mode()
def greedy_captions(captioner: Captioner, heard: HeardClips, max_new_tokens: int) -> tuple[str, ...]:
    """The most probable caption of each clip, token by token."""
    captions: list[str] = []
    for chunk in torch.arange(len(heard.clip_ids)).split(CHUNK):
        frames = torch.from_numpy(heard.audio.frames)[chunk]
        frame_mask = torch.from_numpy(heard.audio.frame_mask)[chunk]
        sampled = sample_captions(
            captioner,
            captioner.encode(frames, frame_mask),
            torch.arange(len(chunk)),
            temperature=1.0,
            max_new_tokens=max_new_tokens,
            generator=None,
        )
        captions += captioner.decode(sampled.tokens, sampled.action_mask)
    return tuple(captions)


@torch.inference_mode()
def mean_kl(captioners: Mapping[str, Path], clips: SplitClips, sampling: SamplingConfig, *, seed: int) -> float:
    """KL(tuned || baseline) of whole captions in nats, by one caption a clip, drawn as in training."""
    tuned, baseline = load_captioner(captioners[TUNED]), load_captioner(captioners[BASELINE])
    generator = torch.Generator().manual_seed(seed)
    total, count = 0.0, 0
    for start in range(0, len(clips.source), CHUNK):
        some, _ = clips.source.read(range(start, min(start + CHUNK, len(clips.source))))
        if not some:
            continue
        index = torch.arange(len(some))
        encodings = [
            captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))
            for captioner in (tuned, baseline)
            for features in (captioner.features(some),)
        ]
        sampled = sample_captions(
            tuned,
            encodings[0],
            index,
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            generator=generator,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
        theirs = score_as_drawn(baseline, encodings[1], index, sampled)
        total += float((sampled.log_probs - theirs.log_probs).sum())
        count += len(some)
    return total / count


class _Verdicts:
    """The judges' view of every caption."""

    def __init__(
        self,
        panel: JudgePanel,
        scenes: Sequence[Scene],
        captions: Mapping[str, Sequence[str]],
        num_bootstrap: int,
        seed: int,
    ) -> None:
        self._panel = panel
        self._scenes = scenes
        self._captions = captions
        self._num_bootstrap = num_bootstrap
        self._seed = seed
        self.right = {
            name: np.array([self._panel.named_right(s, c) for s, c in zip(self._scenes, mine, strict=True)])
            for name, mine in captions.items()
        }
        self.against_baseline = self._tuned_against(BASELINE)

    def figures(self) -> dict[str, object]:
        """The key figures; a win counts 1, a tie a half."""
        failed = ~self.right[BASELINE]
        figures: dict[str, object] = {
            **self._estimate("win_rate", self.against_baseline),
            **self._estimate("win_rate_where_baseline_failed", self.against_baseline[failed]),
            "ties": float((self.against_baseline == 0.5).mean()),
            "baseline_failed": float(failed.mean()),
        }
        if SUPERVISED in self._captions:
            figures |= self._estimate("win_rate_vs_supervised", self._tuned_against(SUPERVISED))
        for name in (BASELINE, TUNED, SUPERVISED):
            if name in self._captions:
                figures[f"named_right_{name}"] = float(self.right[name].mean())
        figures["controls"] = {
            name: {
                **self._estimate("win_rate_of_tuned_against_it", self._tuned_against(name)),
                "named_right": float(self.right[name].mean()),
            }
            for name in self._captions
            if name not in (BASELINE, TUNED, SUPERVISED)
        }
        return {**figures, **self._text_figures()}

    def _text_figures(self) -> dict[str, object]:
        described = {name: describe_captions(mine) for name, mine in self._captions.items()}
        return {
            "caption_length": {name: found.mean_num_words for name, found in described.items()},
            "distinct_captions": {name: found.distinct_share for name, found in described.items()},
            "repetition": {name: found.repetition_share for name, found in described.items()},
        }

    def _tuned_against(self, other: str) -> np.ndarray:
        pairs = zip(self._scenes, self._captions[TUNED], self._captions[other], strict=True)
        return np.array([self._panel.verdict(scene, mine, theirs) for scene, mine, theirs in pairs])

    def _estimate(self, name: str, verdicts: np.ndarray) -> dict[str, object]:
        if not len(verdicts):
            return {name: None, f"{name}_ci95": None}
        found = bootstrap_mean(verdicts, self._seed, num_resamples=self._num_bootstrap)
        return {name: found.mean, f"{name}_ci95": [found.low, found.high]}


def _rows(
    clips: SplitClips,
    positions: Sequence[int],
    captions: Mapping[str, Sequence[str]],
    verdicts: _Verdicts,
    num_audible: int,
    seed: int,
) -> tuple[dict[str, object], ...]:
    order = np.random.default_rng(seed).permutation(len(positions))
    audible = set(order[:num_audible].tolist())
    rows = []
    for row in order.tolist():
        some, _ = clips.source.read([positions[row]])
        words = {1.0: TUNED, 0.5: "tie", 0.0: BASELINE}
        rows.append(
            {
                "clip_id": some[0].clip_id,
                "truth": clips.captions[positions[row]][0],
                "baseline": captions[BASELINE][row],
                "tuned": captions[TUNED][row],
                "supervised": captions[SUPERVISED][row] if SUPERVISED in captions else None,
                "verdict": words[float(verdicts.against_baseline[row])],
                "baseline_right": bool(verdicts.right[BASELINE][row]),
                "tuned_right": bool(verdicts.right[TUNED][row]),
                "supervised_right": bool(verdicts.right[SUPERVISED][row]) if SUPERVISED in captions else None,
                "audio_flac": to_flac(some[0]) if row in audible else None,
            }
        )
    return tuple(rows)
