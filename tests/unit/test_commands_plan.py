"""`rlcap plan`: a table where a run fits; figures, the setting to change and exit code 1 where it does not."""

import json

import pytest

from rlcap.commands.main import run

SIZE = ["--parameters", "8e9", "--layers", "32", "--width", "4096", "--vocabulary", "150000", "--parameter-bytes", "2"]
MACHINE = ["--gpus", "8", "--gpu-memory", "80", "--memory", "512", "--cpus", "64"]
LORA = [
    "captioner.checkpoint=a-model",
    "captioner.decoder=lora",
    "captioner.gradient_checkpointing=true",
    "sampling.precision=bfloat16",
]
GPUS = ["cluster.num_learners=1", "cluster.learner_gpus=1", "cluster.actor_gpus=1", "cluster.shard_gpus=0.5"]
SMALL = ["algorithm.microbatch_size=8", "training.batches_per_update=4"]


def test_a_run_that_fits_is_placed_and_its_memory_told_by_part(tmp_path, capsys):
    bench = tmp_path / "bench.json"
    bench.write_text(json.dumps({"rates": [{"num_actors": 6, "captions_per_s": 123.4}]}))
    code = run(
        [
            "plan",
            *SIZE,
            *MACHINE,
            "--bench",
            str(bench),
            *LORA,
            *GPUS,
            *SMALL,
            "cluster.num_actors=6",
            "reward.num_shards=2",
        ]
    )
    told = capsys.readouterr()
    assert (code, told.err) == (0, "")
    assert "1 x learner" in told.out
    assert "node 0, GPU 0: 1 learner" in told.out
    assert "node 0, GPU 7: 2 shards" in told.out
    assert "expected  123.4 captions/s  (measured with 6 actors" in told.out


def test_a_run_that_does_not_fit_is_refused_with_figures_and_the_setting_to_change(capsys):
    assert run(["plan", *SIZE, *MACHINE, "--gpu-memory", "48", *GPUS, *SMALL, "cluster.num_actors=2"]) == 1
    told = capsys.readouterr().err
    assert "rlcap: each learner needs" in told
    assert "most of it optimiser (64.0 GB), and a GPU has 48.0 GB: set captioner.decoder=lora" in told


def test_processes_for_which_there_are_no_gpus_are_counted(capsys):
    assert run(["plan", *SIZE, *MACHINE, *LORA, *GPUS, *SMALL, "cluster.num_actors=9"]) == 1
    assert "the run reserves 11 GPUs (1 learners x 1 + 9 actors x 1 + 2 shards x 0.5)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "the size of the captioner is not known"),
        ([*SIZE, "--nodes", "0"], "--nodes must be above 0"),
        ([*SIZE, "--gpus", "-1"], "--gpus must be 0 or more"),
    ],
)
def test_what_cannot_be_planned_is_wrong_usage(arguments, fault, capsys):
    assert run(["plan", *arguments]) == 2
    assert fault in capsys.readouterr().err
