import pytest
import torch

from rlcap.audio.tower import FRAMES_PER_STEP, AudioTower, pool_segments


@pytest.fixture
def tower():
    torch.manual_seed(0)
    made = AudioTower(num_mels=16, channels=(4, 4, 8, 8)).eval()
    for norm in made.norms:
        norm.running_mean.normal_()
        norm.bias.data.normal_()
    made.mel_mean.normal_()
    return made


def padded(frames, extra, filling=0.0):
    mask = torch.zeros(len(frames), frames.shape[1] + extra, dtype=torch.bool)
    mask[:, : frames.shape[1]] = True
    return torch.nn.functional.pad(frames, (0, 0, 0, extra), value=filling), mask


@pytest.mark.parametrize("num_frames", [1, 15, 16, 17, 50])
@pytest.mark.parametrize("extra", [1, 7, 16, 100])
def test_a_clip_sounds_the_same_however_much_it_is_padded_and_with_what(tower, num_frames, extra):
    frames = torch.randn(2, num_frames, 16, generator=torch.Generator().manual_seed(num_frames))
    alone, alone_mask = tower(*padded(frames, 0))
    for filling in (0.0, 3.0, torch.inf):
        steps, mask = tower(*padded(frames, extra, filling))
        num_steps = -(-num_frames // FRAMES_PER_STEP)
        assert int(mask.sum()) == int(alone_mask.sum()) == 2 * num_steps
        torch.testing.assert_close(steps[:, :num_steps], alone, rtol=0, atol=1e-5)
        assert not steps[:, num_steps:].any()


def test_segments_of_a_clip_do_not_depend_on_its_padding(tower):
    frames = torch.randn(3, 70, 16, generator=torch.Generator().manual_seed(1))
    alone = pool_segments(*tower(*padded(frames, 0)), 4)
    together = pool_segments(*tower(*padded(frames, 200)), 4)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_input_scale_is_that_of_real_frames_alone(tower):
    frames = torch.randn(4, 32, 16) * 3 + 5
    tower.fit_input_scale(*padded(frames, 40, filling=1e6))
    scaled = (frames - tower.mel_mean) * tower.mel_scale
    torch.testing.assert_close(scaled.mean(dim=(0, 1)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.flatten(0, 1).std(dim=0), torch.ones(16))


def test_a_tower_has_four_stages():
    with pytest.raises(ValueError, match=r"4 stages, got 2 channel counts: \[4, 8\]"):
        AudioTower(16, [4, 8])
