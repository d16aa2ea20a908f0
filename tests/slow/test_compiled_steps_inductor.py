"""Steps that inductor has compiled, on prefixes of more lengths than torch compiles by itself."""

import pytest
import torch

from actors import sampler
from actors.sampler import sample_captions
from rlcap.captioners.captioner import Encoding
from rlcap.captioners.compiled_steps import MAX_CACHES, bucket

GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
NUM_TOKENS = 12


def sample(captioner, num_positions):
    generator = torch.Generator().manual_seed(num_positions)
    encoding = Encoding(torch.randn(3, num_positions, 16, generator=generator))
    settings = {"temperature": 1.0, "max_new_tokens": NUM_TOKENS, "generator": generator}
    return sample_captions(captioner, encoding, GROUPS, **settings)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.timeout(900)
def test_inductor_steps_of_more_shapes_than_torch_allows_by_itself_draw_as_others_do(make_captioner, monkeypatch):
    monkeypatch.setattr(sampler, "COMPACT_BELOW", 0)  # each row draws by a number of its own
    plain, compiled = (make_captioner(seed=1, num_layers=1, max_caption_tokens=200) for _ in range(2))
    compiled.compile_steps()
    lengths = [4, 8, 10, 12, 16, 20, 28, 36, 44, 52, 68, 84]
    num_shapes = len({bucket(length + NUM_TOKENS) for length in lengths})
    assert num_shapes > torch._dynamo.config.recompile_limit > MAX_CACHES
    for again in (False, True):
        with torch.compiler.set_stance("fail_on_recompile" if again else "default"):
            for length in lengths:
                found, expected = sample(compiled, length), sample(plain, length)
                assert torch.equal(found.tokens, expected.tokens)
                torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-5)
                torch.testing.assert_close(found.values, expected.values, rtol=0, atol=1e-5)
