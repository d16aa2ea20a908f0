"""Fits the head, and if asked the towers under it, to preference pairs by the Bradley-Terry model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from reward_server.bootstrap import resample_clips
from reward_server.clap import Clap
from reward_server.heads import EnsembleHead, Head, MlpHead, build_head, member_seeds
from reward_server.lora import add_adapters, merge_adapters
from reward_server.pair_table import PairTable, rows_of_parts
from reward_server.tower_inputs import HeardAudio, TowerInputs, tower_inputs
from rlcap.config.reward import FinetuneTowers, HeadConfig, HeadKind
from rlcap.divergence import DivergenceWatch, lower
from rlcap.evaluation.scored_pairs import ScoredPairs
from rlcap.preferences.bradley_terry import bradley_terry_loss
from rlcap.preferences.clip_split import ClipSplit
from rlcap.preferences.pairs import PreferencePair
from rlcap.threads import deterministic_algorithms, limited_threads

MAX_GRAD_NORM = 1.0
THREADED = (FinetuneTowers.all, FinetuneTowers.text_lora)
"""What passes through a tower at every step."""


@dataclass(frozen=True, slots=True)
class FitMetrics:
    """How the fit went; losses and best epoch of an ensemble are those of its first member."""

    train_losses: tuple[float, ...]
    """Mean Bradley-Terry loss of each epoch."""
    validation_losses: tuple[float, ...]
    """The same on the validation clips, after each epoch."""
    best_epoch: int
    """Epoch whose weights were kept; -1 where nothing was trained."""
    heldout_accuracy: float
    """Share of the held-out pairs with a majority whose preferred caption scores higher."""
    num_train_pairs: int
    num_matching_pairs: int
    """Of the training pairs, those that nobody voted on."""
    num_validation_pairs: int
    num_heldout_pairs: int
    """Of these, pairs without a majority count in neither way."""
    member_accuracies: tuple[float, ...] = ()
    """Held-out accuracy of each member of an ensemble alone."""


@dataclass(frozen=True, slots=True)
class FittedReward:
    """A head and the towers that it was fitted on, both in evaluation mode."""

    clap: Clap
    head: Head
    metrics: FitMetrics
    heldout: ScoredPairs
    """The held-out pairs with their raw scores."""


@dataclass(frozen=True, slots=True)
class FitProgress:
    """What the progress callback sees after each epoch."""

    epoch: int
    num_epochs: int
    train_loss: float
    validation_loss: float


def fit_preferences(
    clap: Clap,
    audio: HeardAudio,
    clip_ids: Sequence[str],
    pairs: Sequence[PreferencePair],
    config: HeadConfig,
    on_epoch: Callable[[FitProgress], None] | None = None,
    *,
    seed: int,
    matching: Sequence[PreferencePair] = (),
    split: ClipSplit | None = None,
) -> FittedReward:
    """Fit a head to pairs of the clips in `audio`; `clap` itself is left as it is.

    Clips, not pairs, are split into training, validation and held-out parts: as `split` says, or else by the shares
    in `config`. `matching` are further pairs to train on, which decide neither when to stop nor how good the head is.
    `seed` decides initial weights, split and order: the same one gives the same weights.

    The heads of an ensemble read the same embeddings. Each has initial weights, order and training clips of its own:
    a bootstrap resample of the training clips, matching pairs included. Pairs leave open where zero is, so each
    member is shifted to a mean score of 0 over the captions of the training pairs before they score together.

    Raises:
        DataError: a pair names a clip without audio, or a part of the split is empty.
        DivergedError: loss, gradient or weights are not finite.
    """
    table = PairTable.build([*pairs, *matching], clip_ids)
    training, validation, heldout = rows_of_parts(pairs, split or draw_split(pairs, config, seed=seed))
    training = torch.cat([training, torch.arange(len(pairs), len(pairs) + len(matching))])
    tuned, head = copy.deepcopy(clap), build_head(config, clap.embedding_dim, seed=seed)
    tunes = FinetuneTowers.none if config.kind is HeadKind.cosine else config.finetune_towers
    if tunes is FinetuneTowers.text_lora:
        tuned.requires_grad_(False)
        add_adapters(tuned.text_module, config.lora_rank, config.lora_alpha, seed=seed)
    inputs = tower_inputs(tuned, audio, table.captions, tunes)
    # Steps over embeddings are so small that threads would mostly wait for each other.
    num_threads = torch.get_num_threads() if tunes in THREADED else 1
    with limited_threads(num_threads), deterministic_algorithms(torch.device("cpu")):
        fits = _fit_heads(inputs, head, table, config, (training, validation), on_epoch, seed)
    if tunes is FinetuneTowers.text_lora:
        merge_adapters(tuned.text_module)
    tuned.eval()
    head.eval()
    whole = _Fit(inputs, head, table, config, seed)
    scores_a, scores_b = whole.scores(heldout, table.caption_a), whole.scores(heldout, table.caption_b)
    metrics = FitMetrics(
        train_losses=tuple(fits[0].train_losses),
        validation_losses=tuple(fits[0].validation_losses),
        best_epoch=fits[0].best_epoch,
        heldout_accuracy=pair_accuracy(scores_a, scores_b, table.majority[heldout]),
        num_train_pairs=len(training),
        num_matching_pairs=len(matching),
        num_validation_pairs=len(validation),
        num_heldout_pairs=len(heldout),
        member_accuracies=tuple(fit.accuracy(heldout) for fit in fits) if len(fits) > 1 else (),
    )
    scored = ScoredPairs(tuple(pairs[row] for row in heldout.tolist()), scores_a.numpy(), scores_b.numpy())
    return FittedReward(tuned, head, metrics, scored)


def draw_split(pairs: Sequence[PreferencePair], config: HeadConfig, *, seed: int) -> ClipSplit:
    """Split the clips of these pairs by the shares in the settings."""
    clip_ids = {pair.clip_id for pair in pairs}
    return ClipSplit.draw(clip_ids, config.heldout_share, config.validation_share, seed=seed)


def _fit_heads(
    inputs: TowerInputs,
    head: Head,
    table: PairTable,
    config: HeadConfig,
    parts: tuple[Int64[Tensor, " training"], Int64[Tensor, " validation"]],
    on_epoch: Callable[[FitProgress], None] | None,
    seed: int,
) -> list[_Fit]:
    """Fit a head, or each member of an ensemble to training clips drawn anew."""
    training, validation = parts
    if not isinstance(head, EnsembleHead):
        fit = _Fit(inputs, head, table, config, seed)
        if isinstance(head, MlpHead):
            _fit_mlp(fit, head, training, validation, on_epoch, seed)
        return [fit]
    fits = []
    for member, own_seed in zip(head.members, member_seeds(seed, len(head.members)), strict=True):
        drawn = resample_clips(training, table.clip, np.random.default_rng(own_seed))
        fit = _Fit(inputs, member, table, config, own_seed)
        _fit_mlp(fit, member, drawn, validation, on_epoch, own_seed)
        member.shift(-fit.mean_score(training))
        fits.append(fit)
    return fits


def _fit_mlp(
    fit: _Fit,
    head: MlpHead,
    training: Int64[Tensor, " pair"],
    validation: Int64[Tensor, " pair"],
    on_epoch: Callable[[FitProgress], None] | None,
    seed: int,
) -> None:
    # Dropout draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fit.start(head, training)
        fit.run(training, validation, on_epoch)


def pair_accuracy(
    scores_a: Float[Tensor, " pair"], scores_b: Float[Tensor, " pair"], majority: Int64[Tensor, " pair"]
) -> float:
    """Share of pairs with a majority (1 for A, -1 for B) that the scores order alike; equal scores count half.

    NaN where no pair has a majority.
    """
    decided = majority != 0
    agreement = (scores_a - scores_b).sign()[decided] * majority[decided]
    return ((1 + agreement) / 2).mean().item()


class _Fit:
    """State of one fit."""

    def __init__(self, inputs: TowerInputs, head: Head, table: PairTable, config: HeadConfig, seed: int) -> None:
        self._inputs = inputs
        self._head = head
        self._table = table
        self._config = config
        self._generator = torch.Generator().manual_seed(seed)
        rates = {"reward.head.learning_rate": config.learning_rate}
        if inputs.trainable:
            rates["reward.head.tower_learning_rate"] = config.tower_learning_rate
        self._watch = DivergenceWatch("fitting the reward model", lower(rates))
        self.train_losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best_epoch = -1

    def start(self, head: MlpHead, training: Int64[Tensor, " pair"]) -> None:
        """Fit the head's input scale and its first layer to the training pairs."""
        table = self._table
        clips = table.clip[training].unique()
        preferred = torch.where(table.share_for_a >= 0.5, table.caption_a, table.caption_b)[training]
        with torch.no_grad():
            audio, text = self._inputs.audio(clips), self._inputs.text(preferred.unique())
            self._watch.check_inputs("audio embeddings", audio)
            self._watch.check_inputs("caption embeddings", text)
            head.fit_input_scale(audio, text)
            head.start_as_matcher(self._inputs.audio(table.clip[training]), self._inputs.text(preferred))

    def run(
        self,
        training: Int64[Tensor, " pair"],
        validation: Int64[Tensor, " pair"],
        on_epoch: Callable[[FitProgress], None] | None,
    ) -> None:
        """Run epochs until the validation loss stops falling; keep the best weights."""
        optimizer = torch.optim.AdamW(
            [
                {"params": list(self._head.parameters()), "lr": self._config.learning_rate},
                {"params": self._inputs.trainable, "lr": self._config.tower_learning_rate},
            ],
            weight_decay=self._config.l2,
        )
        best_loss, best_weights = np.inf, self._weights()
        for epoch in range(self._config.num_epochs):
            self._head.train()
            self.train_losses.append(self._epoch(epoch, training, optimizer))
            self._head.eval()
            self._watch.finish(self._named_parameters())
            self.validation_losses.append(self._loss(validation))
            self._watch.check_validation(epoch, self.validation_losses[-1])
            if on_epoch is not None:
                on_epoch(FitProgress(epoch, self._config.num_epochs, self.train_losses[-1], self.validation_losses[-1]))
            if self.validation_losses[-1] < best_loss:
                self.best_epoch, best_loss, best_weights = epoch, self.validation_losses[-1], self._weights()
            elif epoch - self.best_epoch >= self._config.patience:
                break
        for parameter, best in zip(self._parameters(), best_weights, strict=True):
            parameter.data.copy_(best)

    @torch.no_grad()
    def scores(self, pairs: Int64[Tensor, " pair"], caption: Int64[Tensor, " all"]) -> Float[Tensor, " pair"]:
        """Score one side of these pairs."""
        scored = [
            self._head(self._inputs.audio(self._table.clip[batch]), self._inputs.text(caption[batch]))
            for batch in pairs.split(self._config.batch_size)
        ]
        return torch.cat(scored)

    def accuracy(self, pairs: Int64[Tensor, " pair"]) -> float:
        """Share of these pairs that the head orders as the majority of the votes does."""
        table = self._table
        return pair_accuracy(
            self.scores(pairs, table.caption_a), self.scores(pairs, table.caption_b), table.majority[pairs]
        )

    def mean_score(self, pairs: Int64[Tensor, " pair"]) -> float:
        """Mean over both sides of these pairs."""
        sides = [self.scores(pairs, caption) for caption in (self._table.caption_a, self._table.caption_b)]
        return torch.cat(sides).mean().item()

    def _epoch(self, epoch: int, training: Int64[Tensor, " pair"], optimizer: torch.optim.Optimizer) -> float:
        # Pairs of a clip stay together, so that each clip is embedded about once in an epoch.
        rank = torch.randperm(int(self._table.clip.max()) + 1, generator=self._generator)
        order = training[rank[self._table.clip[training]].argsort(stable=True)]
        losses: list[float] = []
        for batch in order.split(self._config.batch_size):
            loss = self._batch_loss(batch)
            optimizer.zero_grad()
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters(), MAX_GRAD_NORM)
            optimizer.step()
            self._watch.note_step(epoch, loss, grad_norm)
            losses.append(loss.item())
        return float(np.mean(losses))

    def _batch_loss(self, batch: Int64[Tensor, " pair"]) -> Float[Tensor, ""]:
        table = self._table
        audio = self._inputs.audio(table.clip[batch])
        text = self._inputs.text(torch.cat([table.caption_a[batch], table.caption_b[batch]]))
        scores_a, scores_b = self._head(torch.cat([audio, audio]), text).chunk(2)
        return bradley_terry_loss(scores_a, scores_b, table.share_for_a[batch], table.num_votes[batch])

    @torch.no_grad()
    def _loss(self, pairs: Int64[Tensor, " pair"]) -> float:
        table = self._table
        scores_a, scores_b = self.scores(pairs, table.caption_a), self.scores(pairs, table.caption_b)
        return bradley_terry_loss(scores_a, scores_b, table.share_for_a[pairs], table.num_votes[pairs]).item()

    def _parameters(self) -> list[nn.Parameter]:
        return [*self._head.parameters(), *self._inputs.trainable]

    def _named_parameters(self) -> dict[str, Tensor]:
        towers = {f"tensor {place} of the towers": one for place, one in enumerate(self._inputs.trainable)}
        return {**dict(self._head.named_parameters()), **towers}

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters()]
