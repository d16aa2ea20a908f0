"""How long a run trains, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlcap.config.section import Section, must_be_positive, must_not_be_negative


@dataclass(kw_only=True)
class TrainingConfig(Section):
    """The main loop."""

    num_updates: int = 60
    """Updates of the policy."""
    clips_per_batch: int = 16
    """Clips behind one update."""
    batches_per_update: int = 2
    """Requests that an update's clips are split into; results depend on it, and not on the number of actors."""
    samples_per_clip: int = 4
    """Captions sampled for each clip of an update."""
    checkpoint_every_updates: int = 10
    """Updates between two checkpoints; a last one is written at the end."""
    keep_last: int = 2
    """Newest checkpoints that stay."""
    keep_best: int = 0
    """Checkpoints that stay besides, since `best_metric` was best on the way to them."""
    best_metric: str = "rollout/reward_mean"
    """Column of the metrics, averaged since the checkpoint before; more is better, or less with `-` in front."""
    checkpoint_dir: str = ""
    """Place that checkpoints are copied to, such as `s3://bucket/run-1`; the run directory then keeps the newest."""
    sample_every_updates: int = 10
    """Updates between two rounds of sample captions for the report."""
    num_sample_clips: int = 8
    """Clips that are captioned in each round of samples."""
    controls: bool = True
    """Also train against a reward that cannot hear and one that hears the wrong clip, to see what the audio adds."""
    supervised: bool = True
    """Also fine-tune the baseline on the true captions of PPO's audio, to compare with."""
    supervised_epochs: int = 12
    """Passes of that fine-tuning; its other settings are those of `sft`."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(
            num_updates=self.num_updates,
            clips_per_batch=self.clips_per_batch,
            samples_per_clip=self.samples_per_clip,
            supervised_epochs=self.supervised_epochs,
            batches_per_update=self.batches_per_update,
            checkpoint_every_updates=self.checkpoint_every_updates,
            keep_last=self.keep_last,
            sample_every_updates=self.sample_every_updates,
        )
        yield from must_not_be_negative(num_sample_clips=self.num_sample_clips, keep_best=self.keep_best)
        if self.keep_best and not self.best_metric.removeprefix("-"):
            yield "best_metric must name a metric where keep_best is above 0"
        if self.checkpoint_dir and "://" not in self.checkpoint_dir:
            yield f"checkpoint_dir must be a URI, such as s3://bucket/run-1 or file:///mnt, got {self.checkpoint_dir}"
        if self.batches_per_update > 0 and self.clips_per_batch % self.batches_per_update:
            yield (
                f"clips_per_batch must be a multiple of batches_per_update ({self.batches_per_update}), "
                f"got {self.clips_per_batch}"
            )


@dataclass(kw_only=True)
class EvaluationConfig(Section):
    """The comparison on held-out clips."""

    num_bootstrap: int = 2000
    """Resamples behind each confidence interval."""
    num_report_clips: int = 40
    """Held-out clips that the report shows with an audio player."""

    def faults(self) -> Iterator[str]:
        """Report values outside their range."""
        yield from must_be_positive(num_bootstrap=self.num_bootstrap)
        yield from must_not_be_negative(num_report_clips=self.num_report_clips)


@dataclass(kw_only=True)
class TrackingConfig(Section):
    """Where metrics go besides `metrics.parquet`."""

    tensorboard: bool = True
    """Write TensorBoard event files into the run directory."""
    wandb: bool = False
    """Log to Weights & Biases; needs the `wandb` extra."""
    mlflow: bool = False
    """Log to MLflow; needs the `mlflow` extra."""
    prometheus: bool = False
    """Let Ray's exporter offer every metric to Prometheus; `cluster/grafana/rlcap.json` shows them."""
    project: str = "rlcap"
    """Project (Weights & Biases) or experiment (MLflow) that runs are filed under."""

    def faults(self) -> Iterator[str]:
        """Report a tracker without a project."""
        if (self.wandb or self.mlflow) and not self.project:
            yield "project must name where wandb and mlflow file the run"
