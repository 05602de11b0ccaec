"""The bench under torchrun: rank 0 reports all, no device counts twice, no rank waits for ever."""

import os
import socket
import subprocess
import sys

import pytest
from bench_records import GPU, make, measured, on_gpu, windows

from green_kernels.bench import ranks
from green_kernels.bench.ranks import Step
from green_kernels.bench.record import read

SECOND = {"machine": GPU | {"gpu_uuid": "GPU-11111111-0000-0000-0000-000000000000"}}


def two(first, second, machines=("boot a", "boot a")):
    """The records of two ranks, of one record each, as rank 0 has them."""
    return ranks.merged([Step(machines[0], [first]), Step(machines[1], [second])])


def test_two_boards_are_summed():
    records = two(on_gpu([2.0] * 10), on_gpu([3.0] * 10, rank=1, **SECOND))
    assert [r.joules for r in records] == [2.0, 3.0]
    (line,) = ranks.sums(records)
    assert "2 ranks, 1.00 ms to 1.00 ms each" in line
    assert "5.00 J in all, 2.00 J to 3.00 J each (40.0% apart)" in line


def test_a_board_that_two_ranks_ran_on_counts_as_nothing():
    records = two(on_gpu([2.0] * 10), on_gpu([2.0] * 10, rank=1, device="cuda:1"))
    for record in records:
        assert record.joules is None and record.energy.windows == ()
        assert record.energy.failed.keys() == {"alone"}
    _, line = ranks.sums(records)
    assert "joules of all ranks are unavailable: alone: 2 ranks ran on this device at once" in line


def test_cpus_are_apart_by_the_kernel_that_runs_them():
    energy = measured(windows([2.0] * 10), source="rapl")
    one, other = make(energy=energy), make(energy=energy, rank=1)
    assert [r.joules for r in two(one, other, ("boot a", "boot b"))] == [2.0, 2.0]
    assert [r.joules for r in two(one, other, ("boot a", "boot a"))] == [None, None]


def test_what_one_rank_does_not_know_is_not_left_out_of_the_sum():
    records = two(on_gpu([2.0] * 10), make(rank=1, device="cuda", **SECOND))
    times, line = ranks.sums(records)
    assert " J " not in times
    assert line.endswith("joules of all ranks are unavailable: " + records[1].energy.reason)


def test_a_rank_without_records_changes_nothing():
    record = on_gpu([2.0] * 10)
    for nothing in ([], None):
        assert ranks.merged([Step("a", nothing), Step("a", [record])]) == [record]
    assert ranks.sums([record]) == []


def test_a_way_that_one_rank_could_not_time_says_so():
    records = two(on_gpu([2.0] * 10), make((), rank=1, device="cuda", **SECOND))
    assert "each (0.0% apart) on the 1 that could be timed" in ranks.sums(records)[0]


def test_all_ranks_are_one_run():
    records = two(make(), make(rank=1, date="2026-01-01T00:00:07+00:00"))
    assert {r.date for r in records} == {make().date}


def test_without_other_ranks_records_pass_through_and_errors_are_ones_own():
    def run():
        yield [make()]
        raise ZeroDivisionError("a case that fails")

    passed = ranks.gathered(run())
    assert next(passed) == [make()]
    with pytest.raises(ZeroDivisionError, match="a case that fails"):
        next(passed)


def test_each_process_has_its_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    for shown, name in ((8, "cuda:3"), (1, "cuda:0"), (0, "cuda:0")):
        monkeypatch.setattr("torch.cuda.device_count", lambda shown=shown: shown)
        assert ranks.device("cuda") == name
    assert ranks.device("cpu") == "cpu"


RANK = """
import os, sys
from green_kernels.bench import ranks

sys.path.append({tests!r})
from bench_records import make

def run():
    yield [make(rank=ranks.rank())]
    if ranks.rank() == 1:
        {fate}
    yield [make(shape="of rank 0")]

ranks.join()
try:
    for records in ranks.gathered(run()):
        print(None if records is None else [r.rank for r in records])
finally:
    ranks.leave()
"""


def two_processes(fate):
    """Exit status, stdout and stderr of two ranks, of which the second meets its fate."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = RANK.format(tests=os.path.dirname(__file__), fate=fate)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | shared | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=90) for process in started]
    finally:
        for process in started:
            process.kill()
    statuses = [process.returncode for process in started]
    return [(status, *texts) for status, texts in zip(statuses, ended, strict=True)]


def test_a_rank_that_raises_ends_the_others():
    first, second = two_processes("raise OSError('its disk is full')")
    assert first[0] == second[0] == 1
    assert first[1] == "[0, 1]\n"  # and not the second case, which rank 0 alone ran
    assert "RankFailed: rank 1 failed: OSError: its disk is full" in first[2]
    assert "RankFailed" not in second[2] and "its disk is full" in second[2]


def test_a_rank_that_dies_ends_the_others():
    first, second = two_processes("os._exit(7)")
    assert second[0] == 7
    assert first[0] == 1 and first[1] == "[0, 1]\n", first


def test_a_rank_with_fewer_cases_holds_up_nobody():
    first, second = two_processes("return")
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert first[1] == "[0, 1]\n[0]\n"
    assert second[1] == "None\nNone\n"


def test_torchrun_writes_and_prints_on_rank_0_only(tmp_path):
    file = tmp_path / "records.jsonl"
    options = ["overhead", "--seconds", "0.02", "--rounds", "2", "--json", str(file)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--redirects", "3"]
    launch += ["--tee", "3", "--log-dir", str(tmp_path), "--local-ranks-filter", "0,1"]
    command = [sys.executable, *launch, "-m", "green_kernels.bench", "run", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    records = read(file)
    assert [r.rank for r in records if r.way == "ours"] == [0, 1]
    assert all(r.joules is None and r.energy.reason for r in records)
    out = [path.read_text() for path in sorted(tmp_path.rglob("stdout.log"))]
    assert len(out) == 2 and out[1] == ""
    assert "overhead 1x64x64, ours: 2 ranks," in out[0]
