from dataclasses import dataclass

import numpy as np
import pytest

from reward_server.swap import Editions, probe
from rlcap.config.reward import ProbeConfig
from rlcap.errors import RewardError
from rlcap.types import Clip, RewardRequest


@dataclass
class FakeModel:
    """Gives fixed scores."""

    version: str
    values: tuple
    encoder_fingerprint: str = "encoder"

    def embed_audio(self, clips):
        return np.zeros((len(clips), 1), dtype=np.float32)

    def score(self, *_):
        if self.values == "raise":
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return np.array(self.values, dtype=np.float32)


LIVE = FakeModel("live", (1, 2, 3, 4))
PROBE_SET = RewardRequest(
    (Clip("a", np.zeros(1, dtype=np.float32), 16_000),), ("a", "b", "c", "d"), np.zeros(4, dtype=np.int64)
)


def report(values, **limits):
    return probe(LIVE, FakeModel("new", values), PROBE_SET, ProbeConfig(**limits))


def test_a_sound_candidate_is_reported_without_fault():
    found = report((10, 30, 20, 40), min_rank_agreement=0.5)
    assert found.faults == ()
    assert (found.live_version, found.candidate_version, found.num_scores) == ("live", "new", 4)
    assert found.rank_agreement == pytest.approx(0.8)
    assert found.spread == pytest.approx(np.std([10, 20, 30, 40]))


@pytest.mark.parametrize(
    ("values", "limits", "fault"),
    [
        ((1, np.nan, 2, np.inf), {}, "2 of its 4 scores are not finite"),
        ((np.nan,) * 4, {}, "4 of its 4 scores are not finite"),
        ((5, 5, 5, 5), {}, "its scores spread by 0, less than min_spread 1e-06"),
        ((4, 3, 2, 1), {"min_rank_agreement": 0.0}, "its rank agreement -1.000 is below min_rank_agreement 0.000"),
        ("raise", {}, "it cannot score the probe set: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_broken_candidate_has_a_fault(values, limits, fault):
    assert fault in report(values, **limits).faults


def test_only_a_candidate_without_fault_is_kept():
    editions, loads = Editions(0, LIVE), []
    editions.stage(FakeModel("new", (1, 1, 1, 1)), PROBE_SET, ProbeConfig())
    editions.adopt(1, "new", lambda: loads.append("new") or FakeModel("new", (4, 3, 2, 1)))
    assert loads == ["new"]
    assert editions.live.model.values == (4, 3, 2, 1)


def test_commit_and_rollback_load_nothing_again():
    editions, new = Editions(0, LIVE), FakeModel("new", (2, 3, 4, 5))

    def never():
        raise AssertionError("the model is held already")

    assert editions.stage(new, PROBE_SET, ProbeConfig()).faults == ()
    assert editions.live.model is LIVE
    editions.adopt(1, "new", never)
    assert (editions.live.generation, editions.live.model) == (1, new)
    editions.adopt(2, "live", never)
    assert (editions.live.generation, editions.live.model) == (2, LIVE)
    editions.adopt(3, "new", never)
    assert editions.live.model is new


def test_an_older_generation_changes_nothing():
    editions = Editions(3, LIVE)
    editions.adopt(3, "new", lambda: FakeModel("new", (1, 2, 3, 4)))
    assert editions.live.model is LIVE


def test_a_model_of_another_version_than_promised_is_refused():
    editions = Editions(0, LIVE)
    with pytest.raises(RewardError, match="must be reward version new, got other"):
        editions.adopt(1, "new", lambda: FakeModel("other", (1, 2, 3, 4)))
    assert editions.live.model is LIVE
