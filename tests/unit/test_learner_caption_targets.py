import logging

import pytest
import torch
from torch import nn

from learner.caption_targets import CaptionTargets
from rlcap.errors import DataError

EOS, PAD = 0, 9


class Words:
    """A captioner whose words are numbers; 5 is never written, and 3 is not written first."""

    forbidden_tokens = (5,)
    forbidden_first_tokens = (3, EOS)
    pad_token_id = PAD
    tokenizer = type("Tokenizer", (), {"decode": staticmethod(lambda tokens: f"word {tokens[0]}")})

    def tokenize(self, captions):
        rows = [torch.tensor([*map(int, caption.split()), EOS]) for caption in captions]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        lengths = torch.tensor([len(row) for row in rows])
        return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def targets_of(*captions, room=None):
    return CaptionTargets.of(Words(), captions, room)


def test_forbidden_tokens_stay_in_their_caption_and_out_of_the_loss():
    batch = targets_of(["1 5 3"], ["3 1"]).batch(torch.tensor([0, 1]), turn=0)
    assert batch.tokens.tolist() == [[1, 5, 3, EOS], [3, 1, EOS, PAD]]
    assert batch.mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert batch.in_loss.tolist() == [[True, False, True, True], [False, True, True, False]]


def test_a_caption_is_cut_to_the_room_that_there_is_and_has_no_end_then():
    batch = targets_of(["1 2 4"], ["1 2"], room=3).batch(torch.tensor([0, 1]), turn=0)
    assert batch.tokens.tolist() == [[1, 2, 4], [1, 2, EOS]]
    assert batch.in_loss.all()


def test_captions_without_a_word_that_may_be_written_are_left_out_and_clips_with_no_other_too():
    targets = targets_of(["", "1"], ["5 5"], ["2", "", "4"], [""])
    assert targets.clips == (0, 2)
    turns = [targets.batch(torch.tensor([0, 1]), turn).tokens[:, 0].tolist() for turn in range(3)]
    assert turns == [[1, 2], [1, 4], [1, 2]]


def test_each_kind_of_loss_is_counted_and_told_once(caplog):
    with caplog.at_level(logging.WARNING):
        targets_of(["1 5 5"], ["3 1 2 4 6"], [""], ["1"], room=4)
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 10 tokens of the captions are left out of the loss, since the captioner never writes them there: "
        "'word 5', 'word 3'",
        "1 of 4 captions are cut to the 4 tokens that the decoder has positions for",
        "1 of 4 captions are left out, and so are 1 clips: they hold no word that the captioner may write",
    ]
    caplog.clear()
    targets_of(["1 2"], ["4"], room=3)
    assert not caplog.records


@pytest.mark.parametrize(("captions", "room"), [(["", "  "], None), (["5", "3"], None), (["1 2"], 0), (["1 2"], -1)])
def test_captions_that_teach_nothing_are_refused(captions, room):
    with pytest.raises(DataError, match=r"none of the \d captions can be taught"):
        targets_of(captions, room=room)


def test_rows_are_trimmed_to_their_longest_caption():
    batch = targets_of(["1 2 4 6"], ["1"], ["2 4"]).batch(torch.tensor([0, 1, 2]), turn=0)
    assert batch.rows(slice(1, 3)).tokens.tolist() == [[1, EOS, PAD], [2, 4, EOS]]
    assert batch.rows(slice(1, 2)).in_loss.tolist() == [[True, True]]
