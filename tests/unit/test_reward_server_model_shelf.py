import threading
from dataclasses import dataclass

import pytest
import torch

from reward_server.model_shelf import MAX_HELD, ModelShelf
from rlcap.errors import RewardError


@dataclass
class FakeModel:
    version: str
    num_bytes: int = 1_000_000
    towers_fingerprint: str = ""
    towers_bytes: int = 0
    towers: str = "towers"

    def to(self, device):
        assert device == torch.device("cpu")
        return self


class Store:
    """Counts what is loaded from it."""

    def __init__(self):
        self.loaded = []

    def get(self, shelf, version):
        def load():
            self.loaded.append(version)
            return FakeModel(version)

        return shelf.get(version, load)


def shelf_of(memory_mb=0.0):
    return ModelShelf(torch.device("cpu"), memory_mb)


def test_a_model_is_loaded_once_while_it_is_held():
    shelf, store = shelf_of(), Store()
    assert [store.get(shelf, version).version for version in "abab"] == ["a", "b", "a", "b"]
    assert store.loaded == ["a", "b"]


def test_the_model_used_longest_ago_goes_first_and_is_loaded_again_when_asked_for():
    shelf, store = shelf_of(), Store()
    versions = [f"v{number}" for number in range(MAX_HELD + 1)]
    for version in versions:
        store.get(shelf, version)
    assert shelf.versions == tuple(versions[1:])
    store.get(shelf, "v0")
    assert store.loaded == [*versions, "v0"]


def test_a_model_of_another_version_than_asked_for_is_refused():
    with pytest.raises(RewardError, match="reward model a was asked for, but b was loaded"):
        shelf_of().get("a", lambda: FakeModel("b"))


def test_room_is_made_by_letting_go_of_all_but_the_live_model():
    shelf, store = shelf_of(memory_mb=2.5), Store()
    for version in ("previous", "live"):
        store.get(shelf, version)
    shelf.make_room(1_000_000, keep="live")
    assert shelf.versions == ("live",)


def test_a_model_that_does_not_fit_beside_the_live_one_is_refused_with_the_figures():
    shelf, store = shelf_of(memory_mb=1.5), Store()
    store.get(shelf, "live")
    expected = r"it needs 1\.0 MB beside the live model's 1\.0 MB, and 0\.5 MB are free"
    with pytest.raises(RewardError, match=expected):
        shelf.make_room(1_000_000, keep="live")
    assert shelf.versions == ("live",)


def test_without_a_limit_of_its_own_the_machine_decides():
    with pytest.raises(RewardError, match="MB are free"):
        shelf_of().make_room(10**18, keep="live")
    shelf_of().make_room(1, keep="live")


def test_towers_that_models_share_are_found_and_counted_once():
    shelf = shelf_of(memory_mb=2.0)
    for version in ("a", "b"):
        shelf.get(version, lambda version=version: FakeModel(version, 1_100_000, "clap", 1_000_000))
    assert shelf.towers("clap") == "towers"
    assert shelf.towers("another") is None
    shelf.make_room(800_000, keep="b")
    assert shelf.versions == ("a", "b")


def test_a_model_that_takes_long_to_load_holds_up_no_other():
    shelf, store = shelf_of(), Store()
    store.get(shelf, "live")
    loading, loaded = threading.Event(), threading.Event()

    def load():
        loading.set()
        assert loaded.wait(timeout=60)
        return FakeModel("slow")

    thread = threading.Thread(target=shelf.get, args=("slow", load))
    thread.start()
    assert loading.wait(timeout=60)
    assert store.get(shelf, "live").version == "live"
    loaded.set()
    thread.join(timeout=60)
    assert shelf.versions == ("live", "slow")
