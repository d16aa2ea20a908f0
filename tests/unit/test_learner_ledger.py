import pytest

from learner.ledger import RolloutLedger
from rlcap.errors import RlcapError


def test_a_batch_that_was_used_is_refused_by_its_index():
    ledger = RolloutLedger()
    ledger.admit([3, 1])
    with pytest.raises(RlcapError, match="batch 1 came to the learner twice"):
        ledger.admit([2, 1])


def test_a_refused_call_marks_nothing():
    ledger = RolloutLedger()
    ledger.admit([1])
    with pytest.raises(RlcapError):
        ledger.admit([2, 1])
    ledger.admit([2])
    assert len(ledger) == 2


def test_the_same_batch_twice_in_one_update_is_refused():
    with pytest.raises(RlcapError, match="batch 5 "):
        RolloutLedger().admit([5, 5])


def test_a_resumed_ledger_remembers():
    ledger, resumed = RolloutLedger(), RolloutLedger()
    ledger.admit([9, 4])
    resumed.load_state_dict(ledger.state_dict())
    assert resumed.state_dict() == [4, 9]
    with pytest.raises(RlcapError):
        resumed.admit([4])
