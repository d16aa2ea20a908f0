import pytest

from rlcap.errors import DataError
from rlcap.pipeline.reward_history import RewardEntry, RewardHistory, last_reward, read_history
from rlcap.run_directory import RunDirectory

FIRST = RewardEntry("v0", 1, "reward")


def history_of(path):
    return RewardHistory(RunDirectory(path), FIRST)


def test_every_update_has_the_model_that_scored_it(tmp_path):
    history = history_of(tmp_path)
    history.add(RewardEntry("v1", 5, "reward_models/v1"))
    history.add(RewardEntry("v2", 9, "reward_models/v2"))
    assert [history.number_at(update) for update in (1, 4, 5, 8, 9, 100)] == [0, 0, 1, 1, 2, 2]
    assert read_history(RunDirectory(tmp_path)) == [*history.entries]
    assert last_reward(RunDirectory(tmp_path)) == tmp_path / "reward_models/v2"


def test_a_model_that_is_replaced_before_it_scored_anything_leaves_no_entry(tmp_path):
    history = history_of(tmp_path)
    for version in ("v1", "v2"):
        history.add(RewardEntry(version, 5, version))
    assert [entry.version for entry in history.entries] == ["v0", "v2"]


def test_a_run_that_goes_on_from_before_a_swap_is_scored_by_the_swapped_model(tmp_path):
    history_of(tmp_path).add(RewardEntry("v1", 50, "v1"))
    resumed = RewardHistory(RunDirectory(tmp_path), RewardEntry("v1", 41, "reward"))
    resumed.continue_after(40)
    assert resumed.entries == (FIRST, RewardEntry("v1", 41, "v1"))


def test_a_run_that_goes_on_with_another_model_in_its_settings_notes_it(tmp_path):
    history_of(tmp_path)
    resumed = RewardHistory(RunDirectory(tmp_path), RewardEntry("other", 11, "reward"))
    resumed.continue_after(10)
    assert [(entry.version, entry.from_update) for entry in resumed.entries] == [("v0", 1), ("other", 11)]


def test_a_run_without_history_has_no_last_reward(tmp_path):
    assert last_reward(RunDirectory(tmp_path)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "must hold a JSON list, found an empty structure"),
        ("[7]", "row 1 of .*: bad row: expected a JSON object, found the number 7"),
        ('[{"version": 7, "from_update": 1, "path": "x"}]', "column 'version': expected text, found the number 7"),
        (
            '[{"version": "v", "from_update": true, "path": "x"}]',
            "'from_update': expected a whole number, found the bool",
        ),
        ('[{"version": "v", "from_update": 1}]', "column 'path': expected text, found nothing"),
    ],
)
def test_a_damaged_history_is_refused_in_words(tmp_path, content, message):
    RunDirectory(tmp_path).reward_history.write_text(content)
    with pytest.raises(DataError, match=message):
        read_history(RunDirectory(tmp_path))
