from rlcap.preferences.clip_split import ClipSplit, draw_folds

CLIPS = [f"clip-{number}" for number in range(1000)]


def test_each_clip_is_in_one_part_and_shares_are_about_kept():
    split = ClipSplit.draw(CLIPS, 0.2, 0.1, seed=0)
    assert sorted((*split.training, *split.validation, *split.heldout)) == sorted(CLIPS)
    assert 150 < len(split.heldout) < 250
    assert 70 < len(split.validation) < 130


def test_further_clips_move_none_and_another_seed_moves_many():
    few, many = (ClipSplit.draw(clips, 0.2, 0.1, seed=0) for clips in (CLIPS[:300], CLIPS))
    assert set(few.heldout) == set(many.heldout) & set(CLIPS[:300])
    assert set(many.heldout) != set(ClipSplit.draw(CLIPS, 0.2, 0.1, seed=1).heldout)


def test_the_order_in_which_clips_are_named_does_not_matter():
    assert ClipSplit.draw(CLIPS, 0.2, 0.1, seed=0) == ClipSplit.draw(CLIPS[::-1] + CLIPS, 0.2, 0.1, seed=0)


def test_a_smaller_share_of_the_training_clips_is_part_of_a_larger_one():
    split = ClipSplit.draw(CLIPS, 0.2, 0.1, seed=0)
    tenth, half = split.train_on(0.1), split.train_on(0.5)
    assert set(tenth.training) < set(half.training) < set(split.training)
    assert len(half.training) == -(-len(split.training) // 2)
    assert (half.validation, half.heldout) == (split.validation, split.heldout)
    assert split.train_on(1.0) == split


def test_folds_hold_each_clip_out_once_and_train_on_no_clip_that_they_hold_out():
    folds = draw_folds(CLIPS, 7, 0.1, seed=0)
    assert sorted(clip for fold in folds for clip in fold.heldout) == sorted(CLIPS)
    for fold in folds:
        assert len(fold.validation) == 100
        assert sorted((*fold.training, *fold.validation, *fold.heldout)) == sorted(CLIPS)
