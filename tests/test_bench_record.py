"""bench: records there and back, and what is refused as none."""

import dataclasses
import json
import math

import bench_records
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from green_kernels.bench import interval, record, schema
from green_kernels.bench.figures import Interval
from green_kernels.bench.record import CorruptRecord, Record


@pytest.fixture
def records():
    """One without joules, and one with them."""
    measured = bench_records.measured(bench_records.windows([1.0, 1.01, 0.99] * 4))
    return [
        bench_records.make(assumed_watts=10.0, estimated_joules=0.01),
        bench_records.make(device="cuda", protocol="full", energy=measured),
    ]


def test_records_come_back_as_they_were(records, tmp_path):
    file = tmp_path / "records.jsonl"
    record.write(records[:1], file)
    record.write(records[1:], file)
    assert record.read(file) == records
    assert len(file.read_text().splitlines()) == len(records)


def test_joules_that_are_not_known_are_null(records):
    values = json.loads(records[0].json())
    assert values["energy"]["joules"] is None
    assert values["energy"]["status"] == "unavailable" and values["energy"]["reason"]


def test_an_estimate_is_kept_apart_from_a_measurement(records):
    assert records[0].estimated_joules == 0.01
    assert records[0].joules is None


def change(values, path, value):
    """Set what a path such as "energy.windows.0.seconds" leads to."""
    *parents, last = path.split(".")
    for key in parents:
        values = values[int(key) if isinstance(values, list) else key]
    values[last] = value


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("energy.joules", "0.1", r"energy.joules must be an object, got '0.1'"),
        ("energy.joules", None, "energy.joules must be null unless its status is measured"),
        ("energy.status", "unavailable", "energy.joules must be null unless its status"),
        ("energy.status", "guessed", "energy.status must be measured or unavailable"),
        ("energy.joules.value", math.inf, "energy.joules.value must be finite and not negative"),
        ("energy.joules.value", -1.0, "energy.joules.value must be finite and not negative"),
        ("energy.joules.high", "wide", "energy.joules.high must be a number or null, got 'wide'"),
        ("energy.windows.1.seconds", 0, r"energy.windows\[1\].seconds must be finite and positive"),
        ("energy.windows.0.busy", True, r"energy.windows\[0\].busy must be a number or null"),
        ("energy.windows.0.celsius", 60.0, r"energy.windows\[0\].celsius must be a list, got 60.0"),
        ("energy.windows.0.watts", 5.0, r"energy.windows\[0\].watts is not a key of a window"),
        ("energy.windows", None, "energy.windows must be a list, got None"),
        ("energy.converged", 1, "energy.converged must be true or false or null, got 1"),
        ("energy.failed", {"busy": 3}, r"energy.failed\['busy'\] must be a string, got 3"),
        ("calls", 1.5, "calls must be an integer, got 1.5"),
        ("times", [0.1, None], r"times\[1\] must be a number, got None"),
        ("times", [], "times must be there if status is timed"),
        ("times", [-1.0], r"times\[0\] must be finite and positive, got -1.0"),
        ("times", [0.1, 0], r"times\[1\] must be finite and positive, got 0"),
        ("times", [10**400], r"times\[0\] must be finite and positive, got 1000"),
        ("flops", 10**400, "flops must be finite and not negative, got 1000"),
        ("flops", -1, "flops must be finite and not negative, got -1"),
        ("ratio", None, "ratio must be a number if status is timed, got None"),
        ("ratio", math.inf, "ratio must be finite"),
        ("ratio_low", None, "ratio_low must be a number if status is timed"),
        ("ratio_high", None, "ratio_high must be a number if status is timed"),
        ("error", None, "error must be a number if status is timed"),
        ("kind", "layer", r"kind must be one of \('op', 'model'\), got 'layer'"),
        ("protocol", "slow", r"protocol must be one of \('quick', 'full'\), got 'slow'"),
        ("extra", {"a_bytes": "5"}, r"extra\['a_bytes'\] must be a number, got '5'"),
        ("extra", {"a": None}, r"extra\['a'\] must be a number, got None"),
        ("quality", {"a": math.nan}, r"quality\['a'\] must be finite"),
        ("machine", [], r"machine must be an object, got \[\]"),
        ("cold", 1, "cold must be true or false, got 1"),
        ("status", "guessed", "status must be one of"),
        ("format", 1, "format must be 2, got 1"),
        ("speed", 3, "speed is not a key of a record"),
    ],
)
def test_a_corrupt_record_is_refused_with_its_key(records, tmp_path, path, value, message):
    file = tmp_path / "records.jsonl"
    record.write(records[:1], file)
    values = json.loads(records[1].json())
    change(values, path, value)
    with file.open("a") as lines:
        lines.write(json.dumps(values) + "\n")
    with pytest.raises(CorruptRecord, match=f"records.jsonl:2: {message}"):
        record.read(file)


def test_a_missing_key_is_named(records):
    for path in ("energy", "data", "energy.windows", "energy.joules.low"):
        values = json.loads(records[1].json())
        *parents, last = path.split(".")
        inner = values
        for key in parents:
            inner = inner[key]
        del inner[last]
        with pytest.raises(CorruptRecord, match=f"line: {path} is missing"):
            Record.from_json(json.dumps(values))


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"case": "int8', "not JSON"),
        ("[1, 2]", "must be an object, got list"),
        ("{}", "format must be 2, got None"),
        ('{"format": 2}', "is missing"),
        ("[" * 200_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
    ],
)
def test_a_line_that_is_no_record_is_refused(line, message):
    with pytest.raises(CorruptRecord, match=message):
        Record.from_json(line)


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
), st.sampled_from([f.name for f in dataclasses.fields(Record)]))  # fmt: skip
def test_any_value_in_any_field_is_taken_or_refused_with_its_name(value, name):
    values = json.loads(bench_records.make().json()) | {name: value}
    try:
        assert Record.from_json(json.dumps(values)).json()
    except CorruptRecord as error:
        assert name in str(error) or "energy" in str(error) or "times" in str(error)


def test_a_median_lies_in_its_interval_and_the_same_values_give_the_same():
    values = [1.0, 1.1, 0.9, 1.05, 0.97, 1.02, 1.01, 0.99, 1.0, 1.03]
    found = interval.median(values)
    assert found == interval.median(values)
    assert min(values) <= found.low < found.value < found.high <= max(values)
    assert not interval.median(values[:2]).sure
    assert interval.half_width(interval.median([2.0] * 10)) == 0.0
    wide = interval.half_width(interval.median([v * 2 - 1 for v in values]))
    assert wide > interval.half_width(found)


@pytest.mark.parametrize("counts", [(4, 4), (10, 10), (4, 10), (10, 4)])
def test_the_interval_of_a_ratio_misses_the_truth_as_rarely_as_it_says(counts):
    generator, trials, missed = np.random.default_rng(1), 400, 0
    for _ in range(trials):
        a, b = (1 + 0.01 * generator.standard_normal(count) for count in counts)
        found = interval.ratio(b, a)
        assert found.low <= found.value <= found.high
        missed += not found.low <= 1 <= found.high
    assert missed / trials <= 0.05


def test_a_ratio_has_no_interval_of_too_few_values_nor_over_zeros():
    assert interval.ratio([2.0] * 4, [1.0] * 4) == Interval(2.0, 2.0, 2.0)
    assert interval.ratio([2.0] * 9, [1.0] * 3) == Interval(2.0)
    assert interval.ratio([2.0] * 5, [0.0, 0.0, 1.0, 1.0, 1.0]) == Interval(2.0)
    assert not interval.ratio([0.0] * 5, [0.0] * 5).sure


def test_a_figure_is_sure_with_both_ends_only():
    assert Interval(1.0, 0.9, 1.1).sure
    assert not any(one.sure for one in (Interval(1.0), Interval(1.0, 0.9), Interval(1.0, high=2.0)))


def test_lines_are_numbered_as_they_stand_and_blank_ones_skipped(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text("one\n\n  \ntwo\n")
    assert list(schema.lines(file)) == [(1, "one"), (4, "two")]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CorruptRecord, match="records.jsonl: not text"):
        list(schema.lines(file))
