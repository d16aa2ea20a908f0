"""How fast captions are sampled, beside `transformers.generate()` on the same model, in turns."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from actors.sampler import sample_captions
from rlcap.bench.hardware import Hardware, describe_hardware
from rlcap.bench.policies import (
    MAX_TOKENS,
    NUM_CLIPS,
    PREFIX_LENGTH,
    RAGGED,
    SAMPLES_PER_CLIP,
    SIZES,
    WHOLE,
    PolicySize,
    Workload,
    bench_device,
    bench_policy,
    seconds,
)
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.packed_linears import packed_linears
from rlcap.captioners.prefix import PrefixCaptioner
from rlcap.pipeline.progress import progress_bar


@dataclass(frozen=True, slots=True)
class SampledSpeed:
    """One size of policy under one workload; medians of the rounds."""

    policy: str
    workload: str
    captions_per_s: float
    generate_captions_per_s: float
    speedup_vs_generate: float
    outside_model: float | None
    """Share of the sampler's time that is not the model's: drawing, masks, putting captions together.

    None for captions that end by themselves: which rows the model runs on is then known afterwards only."""


@dataclass(frozen=True, slots=True)
class SamplerBench:
    """All figures."""

    hardware: Hardware
    num_threads: int
    num_captions: int
    speeds: tuple[SampledSpeed, ...]

    def as_json(self) -> dict[str, object]:
        """Plain values; `speedup_vs_generate` is that of captions of full length, by policy."""
        whole = {one.policy: one.speedup_vs_generate for one in self.speeds if one.workload == WHOLE.name}
        ragged = {one.policy: one.speedup_vs_generate for one in self.speeds if one.workload == RAGGED.name}
        return {**asdict(self), "speedup_vs_generate": whole, "speedup_vs_generate_ragged": ragged}


def bench_sampler(num_rounds: int) -> SamplerBench:
    """Measure every size of policy on the first GPU, or on the CPU's threads."""
    device = bench_device()
    settings = [(size, workload) for size in SIZES for workload in (WHOLE, RAGGED)]
    speeds = []
    with progress_bar("sampler, generate()", len(settings)) as advance:
        for size, workload in settings:
            speeds.append(_measure(size, workload, device, num_rounds))
            advance(f"{size.name}: {speeds[-1].speedup_vs_generate:.1f} x")
    return SamplerBench(describe_hardware(), torch.get_num_threads(), NUM_CLIPS * SAMPLES_PER_CLIP, tuple(speeds))


def _measure(size: PolicySize, workload: Workload, device: torch.device, num_rounds: int) -> SampledSpeed:
    captioner = bench_policy(size, workload, device)
    encoding = Encoding(
        torch.randn(NUM_CLIPS, PREFIX_LENGTH, size.width, generator=torch.Generator().manual_seed(0)).to(device)
    )
    clip_index = torch.arange(NUM_CLIPS, device=device).repeat_interleave(SAMPLES_PER_CLIP)

    def sample() -> None:
        sample_captions(
            captioner, encoding, clip_index, temperature=1.0, max_new_tokens=MAX_TOKENS, generator=generator
        )

    generator = torch.Generator(device).manual_seed(0)
    runs = (
        sample,
        lambda: _generate(captioner, encoding, clip_index),
        lambda: _model_alone(captioner, encoding, clip_index),
    )
    rounds = [[seconds(run, device) for run in runs] for _ in range(num_rounds + 1)]
    ours, theirs, model = np.array(rounds[1:]).T  # the first one warms up
    return SampledSpeed(
        policy=size.name,
        workload=workload.name,
        captions_per_s=len(clip_index) / float(np.median(ours)),
        generate_captions_per_s=len(clip_index) / float(np.median(theirs)),
        speedup_vs_generate=float(np.median(theirs / ours)),
        outside_model=float(np.median(1 - model / ours)) if workload is WHOLE else None,
    )


@torch.inference_mode()
def _generate(captioner: PrefixCaptioner, encoding: Encoding, clip_index: Int[Tensor, " batch"]) -> None:
    prefix = encoding.states[clip_index]
    captioner.language_model.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64, device=prefix.device),
        do_sample=True,
        top_k=0,
        max_new_tokens=MAX_TOKENS,
        pad_token_id=captioner.pad_token_id,
    )


@torch.inference_mode()
def _model_alone(captioner: PrefixCaptioner, encoding: Encoding, clip_index: Int[Tensor, " batch"]) -> None:
    """Run the decoder and the critic as the sampler does, drawing nothing."""
    with packed_linears(captioner):
        state, hidden = captioner.begin(encoding, clip_index, MAX_TOKENS)
        seen = []
        for t in range(MAX_TOKENS):
            captioner.logits(hidden)
            seen.append(hidden)
            if t + 1 < MAX_TOKENS:
                hidden = captioner.step(state, clip_index)
        captioner.value(torch.cat(seen))
