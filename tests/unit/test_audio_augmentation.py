import torch

from rlcap.audio.augmentation import MASKED_MELS, MASKED_SHARE, MAX_GAIN, augment_frames


def clips(num_clips=6, num_frames=200, num_mels=64):
    frames = torch.randn(num_clips, num_frames, num_mels, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(num_frames) < torch.linspace(50, num_frames, num_clips)[:, None]
    return frames, mask


def augmented(frames, mask, seed=0):
    return augment_frames(frames, mask, torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_frames_and_another_seed_others():
    frames, mask = clips()
    assert torch.equal(augmented(frames, mask, 1), augmented(frames, mask, 1))
    assert not torch.equal(augmented(frames, mask, 1), augmented(frames, mask, 2))


def test_the_input_stays_as_it_was():
    frames, mask = clips()
    before = frames.clone()
    augmented(frames, mask)
    assert torch.equal(frames, before)


def test_most_of_a_clip_is_shifted_by_one_gain_and_the_rest_is_its_quietest_value():
    frames, mask = clips()
    changed = augmented(frames, mask)
    for clip, own in enumerate(mask):
        shift = (changed - frames)[clip, own]
        gain = shift.median()
        assert abs(gain) <= MAX_GAIN
        masked = (shift - gain).abs() > 1e-5
        band, stretch = (MASKED_MELS + 1) / 64, 2 * (MASKED_SHARE * frames.shape[1] + 1) / int(own.sum())
        assert masked.float().mean() <= band + stretch
        floor = frames[clip, own].min() + gain
        torch.testing.assert_close(changed[clip, own][masked], floor.expand(int(masked.sum())))


def test_masks_and_gains_vary_between_clips():
    frames, mask = clips()
    difference = (augmented(frames, mask) - frames).flatten(1).median(dim=1).values
    assert len(difference.unique()) == len(frames)


def test_padding_does_not_set_the_floor():
    frames, mask = clips()
    quiet = torch.where(mask[:, :, None], frames, -1e6)
    assert augmented(quiet, mask)[mask].min() > -10
