"""bench compare: verdicts by intervals, on records whose windows are known."""

import io
from dataclasses import replace

import pytest
from bench_records import GPU, make, measured, on_gpu, unavailable, windows
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from green_kernels.bench import compare
from green_kernels.bench.figures import Energy, Interval

STEADY = [1.0, 1.001, 0.999, 1.002, 0.998, 1.0, 1.001, 0.999, 1.0, 1.0, 1.0]


def scaled(factor):
    return [value * factor for value in STEADY]


def verdicts(a, b, **more):
    return {v.figure: v for v in compare.compare([a], [b], **more)}


def printed(*arguments):
    console = Console(width=300, file=io.StringIO())
    compare.print_verdicts(*arguments, console=console)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "factor, verdict",
    [(1.0, "SAME"), (1.01, "SAME"), (1.1, "WORSE"), (0.9, "BETTER"), (1.02, "UNSURE")],
)
def test_verdicts_are_by_the_whole_interval(factor, verdict):
    a, b = on_gpu(STEADY, scaled(1e-3)), on_gpu(scaled(factor), scaled(factor * 1e-3))
    found = verdicts(a, b)
    assert {v.verdict for v in found.values()} == {verdict}
    for v in found.values():
        assert v.ratio.value == pytest.approx(factor)
        assert v.ratio.low <= v.ratio.value <= v.ratio.high


def test_noise_makes_a_verdict_unsure_and_more_threshold_makes_it_same():
    noisy = [1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.15, 0.85, 1.05, 0.95]
    a, b = make(noisy), make([value * 1.03 for value in noisy])
    assert verdicts(a, b)["time"].verdict == "UNSURE"
    assert "the interval holds" in verdicts(a, b)["time"].reason
    assert verdicts(a, b, threshold=0.5)["time"].verdict == "SAME"


values = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12)


@given(values, values)
def test_a_file_is_never_worse_than_itself(times, joules):
    r = on_gpu(joules, times)
    found = verdicts(r, r)
    assert all(v.verdict in ("SAME", "UNSURE") for v in found.values())
    assert compare.exit_code(found.values()) == 0


@given(values, values, st.sampled_from([0.0, 0.02, 0.3]))
def test_better_one_way_is_worse_the_other(a, b, threshold):
    """But where the two bounds, 1 + t and 1 / (1 - t), differ."""
    there = verdicts(make(a), make(b), threshold=threshold)["time"]
    back = verdicts(make(b), make(a), threshold=threshold)["time"]
    assert not (there.verdict == back.verdict == "WORSE")
    if there.verdict == "BETTER" and there.ratio.high < 0.99 / (1 + threshold):
        assert back.verdict == "WORSE"


@pytest.mark.parametrize("count", [1, 3])
def test_few_rounds_or_windows_give_no_interval(count):
    one = on_gpu([1.0] * count, [1e-3] * count)
    double = on_gpu([2.0] * count, [2e-3] * count)
    found = verdicts(one, double)
    assert {v.verdict for v in found.values()} == {"UNSURE"}
    for figure, what in (("time", "rounds"), ("joules", "windows")):
        words = f"{count} and {count} {what} give no interval, 4 each would"
        assert found[figure].reason == words
    assert found["time"].ratio.value == 2 and not found["time"].ratio.sure


def test_joules_without_windows_are_compared_by_their_intervals():
    def record(low, value, high):
        energy = Energy("measured", None, "nvml", Interval(value, low, high))
        return make(energy=energy)

    worse = verdicts(record(0.99, 1.0, 1.01), record(1.08, 1.1, 1.12))["joules"]
    assert worse.verdict == "WORSE"
    assert (worse.ratio.low, worse.ratio.high) == (1.08 / 1.01, 1.12 / 0.99)
    unsure = verdicts(record(0.99, 1.0, 1.01), record(None, 1.1, None))["joules"]
    assert unsure.verdict == "UNSURE" and "no interval of joules in one" in unsure.reason


def test_windows_of_no_joules_leave_the_ratio_unsure():
    some = on_gpu([0.0, 0.0, 1.0, 1.0, 1.0])
    found = verdicts(some, on_gpu([2.0] * 5))["joules"]
    assert found.verdict == "UNSURE" and "windows of 0 in A leave no interval" in found.reason


def test_joules_that_are_unavailable_are_unsure_with_the_reason():
    found = verdicts(on_gpu(STEADY), replace(on_gpu(STEADY), energy=unavailable("no meter")))
    assert found["joules"].verdict == "UNSURE"
    assert found["joules"].reason == "no joules in B: no meter"
    assert found["time"].verdict == "SAME"


def test_a_result_that_became_wrong_is_worse():
    wrong = make((), status="refused", reason="off by 0.3")
    found = verdicts(make(), wrong)
    assert found["time"].verdict == "WORSE" and "off by 0.3" in found["time"].reason
    assert compare.exit_code(found.values()) == 1
    assert "time of int8_linear 16x64x64" in printed(list(found.values()))
    gone = make((), status="unavailable", reason="not installed")
    assert verdicts(make(), gone)["time"].verdict == "UNSURE"


@pytest.mark.parametrize(
    "change", [{"shape": "1x1x1"}, {"way": "ours"}, {"dtype": "bfloat16"}, {"data": "zeros"},
               {"protocol": "full"}, {"device": "cuda"}]
)  # fmt: skip
def test_what_is_in_one_file_only_is_missing(change):
    """Never compared with something else."""
    a, b = make(), make(**change)
    found = compare.compare([a], [b])
    assert [(v.verdict, v.reason) for v in found] == [
        ("MISSING", "only in A"),
        ("MISSING", "only in B"),
    ]
    assert "0 WORSE" in printed(found) and "2 MISSING" in printed(found)


def test_two_gpus_of_one_machine_are_one_kind():
    assert verdicts(make(device="cuda:0"), make(device="cuda:1")).keys() == {"time"}


def test_other_machines_baselines_and_data_are_said():
    a = [make(), make(way="ours")]
    b = [make(machine=GPU), make(baseline="torch bf16", data="zeros", machine=GPU)]
    words = "\n".join(compare.warnings(a, b))
    assert "the GPU differs: A none; B Made-up H100" in words
    assert "the data of int8_linear 16x64x64 differs: A normal; B normal, zeros" in words
    assert "the baseline of int8_linear 16x64x64 differs" in words
    assert "absolute joules" not in words  # there are none
    assert compare.warnings(a, a) == []


def test_absolute_joules_of_two_cards_are_flagged():
    a = on_gpu(STEADY)
    b = on_gpu(STEADY, machine=GPU | {"gpu_uuid": "GPU-another"})
    (words,) = compare.warnings([a], [b])
    assert "absolute joules of different cards" in words
    text = printed(compare.compare([a], [b]), [words])
    assert text.index("WARNING absolute joules") < text.index("B against A")


def test_the_last_of_several_records_counts_and_that_is_said():
    slow, fast = make([2e-3] * 5), make([1e-3] * 5)
    (time,) = compare.compare([slow, fast], [fast])
    assert time.verdict == "SAME"
    assert "A has several records of 1 ways" in compare.warnings([slow, fast], [fast])[0]


def test_the_table_has_every_verdict_and_a_line_for_each_worse():
    a = [on_gpu(STEADY), on_gpu(STEADY, way="ours")]
    b = [on_gpu(scaled(1.5)), on_gpu(scaled(0.5), way="[ours]")]
    text = printed(compare.compare(a, b))
    assert "1 SAME, 0 BETTER, 1 WORSE, 0 UNSURE, 2 MISSING" in text
    (line,) = [line for line in text.splitlines() if line.startswith("WORSE")]
    assert "joules of int8_linear 16x64x64, torch fp32" in line and "1.500x" in line
    assert "[ours]" in text  # a way's name is no markup
    assert "\x1b" not in text


def test_exit_code_is_one_on_any_worse():
    same = compare.compare([on_gpu(STEADY)], [on_gpu(STEADY)])
    worse = compare.compare([on_gpu(STEADY)], [on_gpu(scaled(1.5))])
    assert compare.exit_code(same) == 0
    assert compare.exit_code([*same, *worse]) == 1


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_a_threshold_without_sense_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be at least 0 and less than 1, got"):
        compare.compare([], [], threshold=threshold)


def test_a_gain_that_is_unsure_is_not_the_same():
    """Its interval is from far below to just within the threshold."""
    a = make([1.0] * 8)
    b = make([0.5] * 3 + [0.52] + [1.0] * 4)
    time = verdicts(a, b)["time"]
    assert time.ratio.low < 0.98 < time.ratio.high <= 1.02
    assert time.verdict == "UNSURE" and "the interval holds 0.98" in time.reason


def test_what_was_never_timed_did_not_become_worse():
    """Not even with a wrong result: A has none to compare it with."""
    joules = on_gpu(STEADY).energy  # so that both have a verdict
    never = make((), status="unavailable", reason="not installed", energy=joules)
    wrong = make((), status="refused", reason="off by 0.3", energy=joules)
    assert verdicts(never, wrong).keys() == {"joules"}
    for a, b in ((never, make()), (wrong, make())):
        found = verdicts(a, b)["time"]
        assert found.verdict == "UNSURE" and f"{a.status} in A" in found.reason
    assert compare._time(compare.Key.of(never), never, wrong, 0.02).verdict == "UNSURE"


def test_joules_of_one_card_are_not_flagged():
    assert compare.warnings([on_gpu(STEADY)], [on_gpu(scaled(1.1))]) == []


def test_windows_of_another_length_do_not_matter():
    """Joules per call are power times the time of a call."""
    long = measured(windows(STEADY, seconds=10.0, ticks=100.0))
    assert verdicts(on_gpu(STEADY), on_gpu(STEADY, energy=long))["joules"].verdict == "SAME"
