"""energy.gather: the joules of several processes, with no device counted twice."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.clock import Clock

from green_kernels.energy import FakeMeter, Measurement, gather, measure
from green_kernels.energy.ranks import Report, combine

HOST = socket.gethostname()


def window(watts, seconds, device="cuda:0", identity="GPU-aaaa"):
    clock = Clock()
    meter = FakeMeter(watts, device, clock=clock, identity=identity)
    with measure(meters=[meter], clock=clock) as result:
        clock.sleep(seconds)
    return result


PROGRAM = """
import os, sys
import torch.distributed as dist
sys.path.append(sys.argv[1])
from test_energy_ranks import window
from green_kernels.energy import gather

rank = int(os.environ["RANK"])
dist.init_process_group("gloo")
with open(f"{rank}.txt", "w") as out:
    for boards in (["GPU-aaaa", "GPU-bbbb"], ["GPU-aaaa", "GPU-aaaa"]):
        result = gather(window(100.0 * (rank + 1), 2.0 + rank, identity=boards[rank]))
        if result is not None:
            result = result.total, result.seconds, result.spread, result.duplicates
        print(repr(result), file=out)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What two ranks came to: each with a board of its own, then both on one."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["program.py", str(Path(__file__).parent)]
    done = subprocess.run([*launch, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [(folder / f"{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    return [list(map(ast.literal_eval, of_rank)) for of_rank in lines]


def test_rank_0_has_the_sum_and_the_spread_of_boards_of_their_own(ranks):
    total, seconds, spread, duplicates = ranks[0][0]
    assert total == pytest.approx(200.0 + 600.0)
    assert seconds == pytest.approx(3.0)  # of the slower
    assert spread == pytest.approx((600.0 - 200.0) / 400.0)
    assert duplicates == {}


def test_a_board_of_two_ranks_is_counted_once_in_the_longer_window(ranks):
    total, seconds, spread, duplicates = ranks[0][1]
    assert total == pytest.approx(600.0)
    assert (seconds, spread) == (pytest.approx(3.0), 0.0)
    assert duplicates == {f"{HOST}/GPU-aaaa": ["rank 0 cuda:0", "rank 1 cuda:0"]}


def test_the_other_ranks_have_nothing_to_report(ranks):
    assert ranks[1] == [None, None]


def test_a_process_alone_is_the_only_rank():
    result = gather(window(100.0, 2.0))
    assert (result.ranks, result.seconds) == (1, pytest.approx(2.0))
    assert result.joules == {f"{HOST}/GPU-aaaa": pytest.approx(200.0)}
    assert result.total == pytest.approx(200.0)
    assert (result.least, result.most, result.spread) == (result.total, result.total, 0)
    assert result.status == "measured"


def combined(*reports):
    return combine([Report(*report) for report in reports])


def test_the_packages_of_a_host_are_counted_once_for_all_of_its_containers():
    cpu = window(50.0, 2.0, "cpu", None)
    result = combined(("box-1", "boot-a", cpu), ("box-2", "boot-a", cpu), ("far", "boot-b", cpu))
    assert result.total == pytest.approx(200.0)
    assert result.joules == {
        "box-1/cpu": pytest.approx(100.0),
        "far/cpu": pytest.approx(100.0),
    }
    assert result.duplicates == {"box-1/cpu": ["rank 0 cpu", "rank 1 cpu"]}


def test_hosts_of_one_name_are_told_apart_by_their_boots():
    cpu = window(50.0, 2.0, "cpu", None)
    result = combined(("localhost", "boot-a", cpu), ("localhost", "boot-b", cpu))
    assert result.total == pytest.approx(200.0) and result.duplicates == {}
    assert list(result.joules) == ["localhost/cpu", "localhost.boot-b/cpu"]


def test_the_longer_window_counts_in_either_order():
    short, long = window(100.0, 2.0), window(100.0, 3.0)
    for reports in ([short, long], [long, short]):
        result = combined(*(("host", "boot", report) for report in reports))
        assert result.total == pytest.approx(300.0)


def test_a_board_is_one_whatever_the_host_calls_itself():
    board = window(100.0, 2.0)
    result = combined(("pod-1", "boot-a", board), ("pod-2", "boot-b", board))
    assert result.total == pytest.approx(200.0) and len(result.duplicates) == 1


@pytest.mark.parametrize("identity", ["GPU-aaaa", "GPU-bbbb"])
def test_what_one_rank_does_not_know_makes_the_sum_unknown(identity):
    known, unknown = window(100.0, 2.0), window(100.0, 0.001, identity=identity)
    for reports in ([known, unknown], [unknown, known]):
        result = combined(*(("host", "boot", report) for report in reports))
        assert (result.total, result.least, result.most, result.spread) == (None,) * 4
        reason = "window of 0.001 s is shorter than 20 counter ticks"
        assert result.status == f"unavailable(host/{identity}: {reason})"
        assert result.seconds == pytest.approx(2.0)


def test_a_rank_without_a_device_makes_the_sum_unknown():
    with measure([]) as nothing:
        pass
    result = combined(("host", "boot", window(100.0, 2.0)), ("host", "boot", nothing))
    assert result.total is None
    assert result.status == "unavailable(rank 1: unavailable(no device was given))"


def test_a_rank_whose_window_is_open_has_no_time():
    result = combined(("host", "boot", window(100.0, 2.0)), ("host", "boot", Measurement()))
    assert (result.seconds, result.total) == (None, None)
