import pytest
import torch

from actors import sampler
from actors.sampler import sample_captions
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.compiled_steps import bucket

CLOSE = {"rtol": 0, "atol": 1e-5}
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])


@pytest.fixture(autouse=True)
def _finished_rows_stay(monkeypatch):
    """Each row draws by a number of its own: without this, uncompiled rows change places."""
    monkeypatch.setattr(sampler, "COMPACT_BELOW", 0)


def sample(captioner, encoding, groups=GROUPS, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return sample_captions(captioner, encoding, groups, temperature=1.0, max_new_tokens=12, generator=generator)


def encoded(captioner, clips):
    features = captioner.features(clips)
    with torch.no_grad():
        return captioner.encode(torch.from_numpy(features.frames), torch.from_numpy(features.frame_mask))


@pytest.mark.parametrize("llama", [False, True])
def test_compiled_steps_draw_as_others_do_and_are_compiled_once(make_captioner, make_clips, llama):
    plain, compiled = (make_captioner(seed=1, llama=llama) for _ in range(2))
    compiled.compile_steps(backend="eager")
    encoding = encoded(plain, make_clips(1.0, 0.1, 2.5))
    for seed in range(3):
        # The first batch compiles; where a shape changed from step to step, or from batch to batch, this would raise.
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            found = sample(compiled, encoding, seed=seed)
        expected = sample(plain, encoding, seed=seed)
        lengths = expected.action_mask.sum(dim=1)
        assert lengths.min() < lengths.max(), "ragged"
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.action_mask, expected.action_mask)
        torch.testing.assert_close(found.log_probs, expected.log_probs, **CLOSE)
        torch.testing.assert_close(found.values, expected.values, **CLOSE)


def test_prefixes_of_unequal_length_keep_their_padding_out_of_sight(make_captioner, make_clips):
    plain, compiled = (make_captioner(seed=1) for _ in range(2))
    compiled.compile_steps(backend="eager")
    encoding = encoded(plain, make_clips(1.0, 0.1, 2.5))
    mask = torch.ones(encoding.states.shape[:2], dtype=torch.bool)
    mask[1, -2:] = False
    states = torch.where(mask[:, :, None], encoding.states, 1e3)
    padded = type(encoding)(states, mask)
    found, expected = sample(compiled, padded), sample(plain, padded)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_probs, expected.log_probs, **CLOSE)


def test_batches_of_other_shapes_keep_memory_of_their_own(make_captioner, make_clips):
    plain, compiled = (make_captioner(seed=1) for _ in range(2))
    compiled.compile_steps(backend="eager")
    encoding = encoded(plain, make_clips(1.0, 0.1, 2.5))
    for groups in (GROUPS, GROUPS[:4], GROUPS, GROUPS[2:9]):
        assert torch.equal(sample(compiled, encoding, groups).tokens, sample(plain, encoding, groups).tokens)


def some_prefixes(num_positions, num_clips=3):
    generator = torch.Generator().manual_seed(num_positions)
    return Encoding(torch.randn(num_clips, num_positions, 16, generator=generator))


def test_prefixes_of_every_length_and_batches_of_every_size_are_compiled_a_few_times(make_captioner):
    plain, compiled = (make_captioner(seed=1, num_layers=1, max_caption_tokens=64) for _ in range(2))
    compilations = []

    def backend(graph, _inputs):
        compilations.append(graph)
        return graph.forward

    compiled.compile_steps(backend=backend)
    for length in (*range(1, 29, 3), 2, 27):
        groups = GROUPS[: 5 + length % 4]
        encoding = some_prefixes(length)
        found, expected = sample(compiled, encoding, groups), sample(plain, encoding, groups)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.log_probs, expected.log_probs, **CLOSE)
    shapes = {(bucket(5 + length % 4), bucket(length + 12)) for length in range(1, 29, 3)}
    assert len(compilations) == len(shapes) == 6


@pytest.mark.parametrize("size", [*range(1, 200), 255, 256, 257, 1000, 5000])
def test_a_bucket_holds_what_falls_into_it_and_is_hardly_larger(size):
    assert size <= bucket(size) <= max(1.25 * size, size + 3)
    assert bucket(bucket(size)) == bucket(size)


@pytest.mark.parametrize("size", [4, 8, 16, 32, 48, 64, 96, 128, 256, 512])
def test_common_sizes_stay_as_they_are(size):
    assert bucket(size) == size
