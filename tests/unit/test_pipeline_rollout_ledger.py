"""The proof that a run used every clip once: ledgers that hold, and ledgers that must not."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from actors.audio_cursor import AudioCursor
from learner.ppo_learner import UsedBatch
from rlcap.algorithm.update_report import UpdateReport
from rlcap.commands.main import run as rlcap
from rlcap.config.run import RunConfig
from rlcap.errors import DataError
from rlcap.pipeline.rollout_ledger import SCHEMA, LedgerWriter, check_ledger, read_ledger
from rlcap.run_directory import create_run_directory
from rlcap.types import Quarantined

NUM_CLIPS = 5
CURSOR = AudioCursor(NUM_CLIPS, batch_size=2, seed=0)
SKIPPED, HALF_BAD = 3, 4


def report(update, *indices, skipped=()):
    """One update on these batches of the stream; of `HALF_BAD` one clip could not be used."""
    asked, used = [], []
    for index in indices:
        batch = CURSOR.batch(index)
        bad = batch.positions[:1] if index == HALF_BAD else ()
        quarantined = [Quarantined(f"{position}.wav", "silent") for position in bad]
        asked.append(SimpleNamespace(batch=batch, info=SimpleNamespace(quarantined=quarantined)))
        heard = tuple(str(position) for position in batch.positions if position not in bad)
        used.append(UsedBatch(index, heard, num_captions=4 * len(heard), num_unscored=1))
    return UpdateReport(update, {}, (), (), tuple(asked), tuple(used), tuple(map(CURSOR.batch, skipped)))


@pytest.fixture
def run(tmp_path):
    """A run of three updates with a checkpoint after the second, which was resumed there and did the third again."""
    run = create_run_directory(RunConfig(run_dir=str(tmp_path / "run")))
    writer = LedgerWriter(run, NUM_CLIPS, num_updates_done=0)
    writer.note(report(1, 0, 1))
    writer.note(report(2, 2, HALF_BAD, skipped=[SKIPPED]))
    writer.save(2)
    writer.note(report(3, 5, 6))
    writer.save(3)
    resumed = LedgerWriter(run, NUM_CLIPS, num_updates_done=2)
    resumed.save(2)
    resumed.note(report(3, 5, 6))
    resumed.save(3)
    return run


def test_a_ledger_that_holds_is_summed_up(run, capsys):
    table = read_ledger(run)
    assert table["batch_index"].to_pylist() == list(range(7))
    assert table["update"].to_pylist() == [1, 1, 2, None, 2, 3, 3]
    found = check_ledger(table)
    assert (found.num_updates, found.num_batches, found.num_skipped, found.num_epochs) == (3, 6, 1, 2)
    assert (found.num_used, found.num_quarantined, found.num_captions, found.num_unscored) == (11, 3, 44, 6)
    assert rlcap(["ledger", str(run.path)]) == 0
    assert "finished epochs, each clip accounted for       2" in capsys.readouterr().out


def changed(run, change):
    rows = read_ledger(run).to_pylist()
    change(rows)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_batch_that_was_used_twice_is_found(run):
    with pytest.raises(DataError, match="batch 1 stands in the ledger twice"):
        check_ledger(changed(run, lambda rows: rows.insert(2, {**rows[1], "update": 2})))


def test_a_batch_that_was_lost_is_found(run):
    with pytest.raises(DataError, match="batch 2 is missing"):
        check_ledger(changed(run, lambda rows: rows.pop(2)))


def test_a_clip_that_no_epoch_asked_for_is_found(run):
    def ask_for_another(rows):
        lost = rows[0]["positions"][0]
        rows[0]["positions"][0] = rows[1]["positions"][0]
        assert lost != rows[0]["positions"][0]

    with pytest.raises(DataError, match="epoch 0 is not whole"):
        check_ledger(changed(run, ask_for_another))


def test_a_clip_that_never_reached_the_learner_is_found(run):
    with pytest.raises(DataError, match="batch 4 asked for 2 clips, but update 2 used 1, and 0 were quarantined"):
        check_ledger(changed(run, lambda rows: rows[4]["quarantined"].clear()))


def test_updates_that_go_back_in_the_stream_are_found(run):
    with pytest.raises(DataError, match="do not follow the stream"):
        check_ledger(changed(run, lambda rows: rows[0].update(update=9)))


def test_a_run_without_a_ledger_or_with_a_damaged_one_is_told(run):
    (run.ledger / "update-000002.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read"):
        read_ledger(run)
    for file in run.ledger.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="holds no ledger yet"):
        read_ledger(run)
