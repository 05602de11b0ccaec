"""bench tune: what it chooses where the truth is known, on a simulated GPU whose calls do run.

Triton's kernels run in its interpreter and the compiled ones are the CPU's; what a launch takes is
a function of the tile, or the plan, that it was launched by.
"""

import json
import random
from dataclasses import replace

import pytest
import torch
from fakes.gpu import EventClock, FakeBatch, FakeCall, FakeExecutor, fake_gpu
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels import ops
from green_kernels.bench import command, options, trial, tunables, tune

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="simulates a GPU on the CPU")
tiles = pytest.importorskip("green_kernels.triton_kernels.int8_matmul_tiles")
plans = pytest.importorskip("green_kernels._C").plans
from green_kernels.triton_kernels import int8_matmul as launcher  # noqa: E402

N, K = 64, 48
FAST = "16x128x128, 4 warps, 4 stages"  # of the candidates for 16 rows or fewer
FRUGAL = "16x64x128, 4 warps, 3 stages"
H200 = plans.Gpu(90, 132, 227 * 1024, has_sm90a=True, memory=4800)


class Launches(FakeExecutor):
    """Calls its calls once for each batch; each takes what `cost` says of what it launched."""

    def batch(self, calls, count, graph=True):
        taken = []
        for call in list(calls) * -(-count // len(calls)):
            if len(taken) < len(calls):
                call()
                taken.append(FakeCall(*self.cost()))
        return FakeBatch(self, taken * -(-count // len(taken)))


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """No sensor profile or table of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GREEN_KERNELS_TILES", raising=False)
    tiles.forget()
    yield
    tiles.forget()
    ops.use_measured_plans(ops.plans.MEASURED)


@pytest.fixture
def gpu():
    """Make the simulated GPU, given what returns seconds and watts of what was launched last."""

    def make(cost):
        clock = EventClock()
        device = fake_gpu(FakeNvml(clock, [FakeBoard(phase=0.037)]), clock)
        device.name, device.cache_bytes = "cpu", 6000  # so that there are two copies
        board = device.executor.board
        device.executor = Launches(clock, board)
        device.executor.cost = cost
        return device

    return make


@pytest.fixture
def launched(monkeypatch):
    """The name of the tile of the last launch in Triton; "in use" where none is being tried."""
    seen = []
    choose = tiles.choose

    def noted(*args, **kwargs):
        row = choose(*args, **kwargs)
        measured = not row.origin.startswith("by shared memory")
        seen.append(row.origin if measured else "in use")
        return row

    monkeypatch.setattr(tiles, "choose", noted)
    return lambda: seen[-1]


def run(device, tmp_path, *more, kernels="triton", op="int8_matmul", rows="9:12"):
    table = tmp_path / "table.json"
    arguments = ["tune", op, "--kernels", kernels, "--shape", f"{N}x{K}", "--rows", rows]
    parsed = options.parse({}, [*arguments, "--table", str(table), *more])
    return tune.tune(parsed, device, "a GPU"), table


def cost_of(launched):
    """All take 2 ms at 400 W but for one that is fast, and one that is slow and frugal."""

    def cost():
        return {FAST: (1e-3, 600.0), FRUGAL: (1.9e-3, 200.0)}.get(launched(), (2e-3, 400.0))

    return cost


@pytest.mark.parametrize("by, best", [("time", FAST), ("joules", FRUGAL)])
def test_the_best_by_time_and_by_joules(by, best, gpu, launched, tmp_path, monkeypatch, capsys):
    status, table = run(gpu(cost_of(launched)), tmp_path, "--by", by)
    assert status == 0
    [row] = tiles.read(table)
    m, n, k = map(int, best.split(",")[0].split("x"))
    assert (row.BLOCK_M, row.BLOCK_N, row.BLOCK_K) == (m, n, k)
    assert (row.arch, row.first_M, row.last_M, row.N, row.K) == (80, 9, 12, N, K)
    gain = {"time": "50.0%", "joules": "47.5%"}[by]
    assert f"took {gain} of the {by} of what was in use" in row.origin
    assert "measured on a GPU, 20" in row.origin and "at M = 12" in row.origin
    assert f"int8_matmul 12x{K}x{N}: {best} takes {gain} of the {by} of" in capsys.readouterr().out
    monkeypatch.setenv("GREEN_KERNELS_TILES", str(table))
    tiles.forget()
    assert launcher.launch(10, N, K, 80)[0]["BLOCK_N"] == n


def test_what_is_wrong_or_fails_is_not_chosen_however_fast(
    gpu, launched, tmp_path, monkeypatch, capsys
):
    matmul = launcher.int8_matmul

    def faulty(*args, **kwargs):
        y = matmul(*args, **kwargs)
        if launched() == FAST:
            y[-1, -1] += 1
        if launched() == FRUGAL:
            raise RuntimeError("out of resource: shared memory")
        return y

    monkeypatch.setattr(launcher, "int8_matmul", faulty)
    status, table = run(gpu(cost_of(launched)), tmp_path)
    assert status == 1 and not table.exists()
    out = capsys.readouterr().out
    assert f"where 1 failed and WRONG BITS came from {FAST})" in out
    assert "what is in use stays: the best takes 100.0% of the time (of " in out


def test_luck_is_not_taken_for_speed(gpu):
    """Of twenty that are all the same, some are ahead in the few rounds that they come in by."""
    y, alike, ahead = torch.ones(2), [trial.IN_USE, *map(str, range(20))], 0
    for seed in range(10):
        device, noise = gpu(lambda: (2e-3, 400.0)), random.Random(seed)
        start = device.executor.start
        device.executor.start = lambda seconds, watts, start=start, noise=noise: start(
            seconds * noise.gauss(1, 0.01), watts
        )
        verdict = trial.Trial(device, {name: [lambda: y] for name in alike}, [y], "time").run()
        assert verdict.best == trial.IN_USE
        ahead += verdict.gain.value > 1
    assert ahead > 2


def test_what_is_in_use_and_wrong_is_said_and_nothing_written(gpu, tmp_path, monkeypatch, capsys):
    matmul = launcher.int8_matmul
    monkeypatch.setattr(launcher, "int8_matmul", lambda *a, **k: matmul(*a, **k) + 1)
    status, table = run(gpu(lambda: (1e-3, 400.0)), tmp_path)
    assert status == 1 and not table.exists()
    out = capsys.readouterr().out
    assert "failed: the result of what is in use is not the reference's, bit for bit" in out


def test_ranges_of_one_winner_share_a_row_and_rows_of_other_shapes_stay(gpu, launched, tmp_path):
    other = tiles.read(tiles.COMMITTED)[0]
    tiles.write(tmp_path / "table.json", [other])
    _, table = run(gpu(cost_of(launched)), tmp_path, rows="3:6")
    row, last = tiles.read(table)
    assert (row.first_M, row.last_M) == (3, 6) and "at M = 6" in row.origin
    assert last == other


def test_rows_of_M_that_no_new_one_is_for_stay(gpu, launched, tmp_path):
    """As where what is in use is such a row, and stays."""
    tile = tiles.read(tiles.COMMITTED)[0]
    rows = {(1, 8): "before", (3, 6): "replaced", (4, 7): "past it"}
    old = [
        replace(tile, first_M=first, last_M=last, N=N, K=K, heavy=False, origin=origin)
        for (first, last), origin in rows.items()
    ]
    tiles.write(tmp_path / "table.json", old)
    _, table = run(gpu(cost_of(launched)), tmp_path, rows="3:6")
    assert [row.origin for row in tiles.read(table)][1:] == ["before", "past it"]


def test_a_row_ends_where_another_wins_or_M_is_left_out():
    winner = tunables.Winner(tunables.Product("int8_matmul", 8, N, K), 5, FAST, "me")
    after = tunables.Product("int8_matmul", 16, N, K)
    assert winner.goes_on(after, 9, FAST)
    assert not winner.goes_on(after, 9, FRUGAL) and not winner.goes_on(after, 10, FAST)
    assert not winner.goes_on(tunables.Product("int8_matmul", 16, N, K + 1), 9, FAST)


@pytest.mark.parametrize(
    "rows, ends",
    [
        ((1, 1), [(1, 1)]),
        ((1, 4), [(1, 1), (2, 2), (3, 4)]),
        ((5, 20), [(5, 8), (9, 16), (17, 20)]),
    ],
)
def test_ranges_of_M_end_at_powers_of_two(rows, ends):
    assert tune.buckets(*rows) == ends


def test_it_ends_when_its_budget_does(gpu, launched, tmp_path, capsys):
    """Each of two products has its share, which a heat is enough to spend; so there is no final."""
    device = gpu(cost_of(launched))
    begin = device.clock()
    status, table = run(device, tmp_path, "--budget", "2s", rows="9:20")
    assert status == 0 and device.clock() - begin < 6  # a heat that has begun is ended
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(" there was no time" in line for line in lines), lines
    assert all("what is in use stays: the time was up" in line for line in lines)


@pytest.mark.parametrize("op", ["int8_matmul", "int8_linear"])
def test_plans_of_compiled_kernels(op, gpu, tmp_path, monkeypatch):
    """(Which the CPU's kernels do not read: what is asked for stands for what is launched.)"""
    monkeypatch.setattr(ops, "gpu_of", lambda device: H200)
    kernel, asked = getattr(ops, op), []

    def noted(*args, **kwargs):
        asked.append(plans.asked_for())
        return kernel(*args, **kwargs)

    noted.reference = kernel.reference
    monkeypatch.setattr(ops, op, noted)

    def cost():
        return (1e-3 if asked[-1] and asked[-1].name == "decode:32:4" else 2e-3, 400.0)

    status, table = run(gpu(cost), tmp_path, kernels="compiled", op=op)
    assert status == 0 and plans.asked_for() is None
    from_float = op == "int8_linear"
    [row] = json.loads(table.read_text())
    assert "of the time of what was in use" in row.pop("origin")
    assert row == {
        "arch": 90, "sm_count": 132, "memory": 4800, "first_M": 9, "last_M": 12,
        "N": N, "K": K, "from_float": from_float, "plan": "decode:32:4",
    }  # fmt: skip
    ops.use_measured_plans(table)
    assert plans.planned(10, N, K, H200, from_float).name == "decode:32:4"


def test_joules_that_no_gate_lets_through_change_nothing(gpu, launched, tmp_path, capsys):
    device = gpu(cost_of(launched))
    device.executor.board.pids = [4242, 4243]
    status, table = run(device, tmp_path, "--by", "joules")
    assert status == 0 and not table.exists()
    out = capsys.readouterr().out
    assert "what is in use stays: alone: other processes are on the GPU: PID 4242" in out


def test_what_cannot_be_written_is_said_before_anything_is_run(gpu, tmp_path, capsys):
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(SystemExit):
        run(gpu(lambda: 1 / 0), tmp_path)
    assert "argument --table: " in (error := capsys.readouterr().err)
    assert "table.json must be a JSON list, got dict" in error
    with pytest.raises(SystemExit):
        run(gpu(lambda: 1 / 0), tmp_path / "nowhere")
    assert "nowhere" in (error := capsys.readouterr().err) and "cannot write into" in error


def test_without_compiled_cuda_kernels_there_are_no_plans(gpu, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(gpu(lambda: 1 / 0), tmp_path, kernels="compiled")
    assert "no CUDA kernels were compiled, so they have no plans" in capsys.readouterr().err


def test_joules_need_a_meter(gpu, tmp_path, capsys):
    device = gpu(lambda: (1e-3, 400.0))
    device.meter, device.no_meter = None, "NVML is not there"
    with pytest.raises(SystemExit):
        run(device, tmp_path, "--by", "joules")
    assert "argument --by: no joules to tune by: NVML is not there" in capsys.readouterr().err


def test_without_a_gpu_it_says_that_it_needs_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["tune", "int8_matmul", "--shape", "64x64", "--table", "x.json"])
    assert stopped.value.code == 2
    assert "tune measures on a GPU, and torch finds no CUDA device here" in capsys.readouterr().err


def test_a_trial_of_nothing_else_keeps_what_is_in_use(gpu):
    y = torch.ones(2)
    device = gpu(lambda: (1e-3, 400.0))
    verdict = trial.Trial(device, {trial.IN_USE: [lambda: y]}, [y], "time").run()
    assert verdict == trial.Verdict(trial.IN_USE, None, "no other could be timed", 0, 0, [], {})
