"""bench report: records in a terminal, in a pipe, in Markdown, and on a page in a real browser."""

import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape, unescape

import numpy as np
import pytest
from bench_records import GPU, NO_METER, make, measured, on_gpu, unavailable, windows
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from green_kernels import carbon
from green_kernels.bench import (
    html,
    markdown,
    palette,
    record,
    report,
    roofline,
    uncertainty,
    words,
)
from green_kernels.bench.case import WAYS
from green_kernels.bench.figures import Interval
from green_kernels.bench.grid import Grid
from green_kernels.bench.protocol import blind

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
JOULES = [2e-3, 2.02e-3, 1.98e-3, 2e-3, 2.01e-3, 1.99e-3, 2e-3, 2e-3, 2e-3, 2e-3]
MODEL = {
    "case": "minilm",
    "shape": "2x2 tokens",
    "kind": "model",
    "items": {"tokens": 4.0, "samples": 2.0},
    "quality": {"spearman": 0.8213},
}


def halved(values):
    return [value / 2 for value in values]


@pytest.fixture
def gpu():
    """A run with joules: two shapes of an op, three ways, and a model."""
    records = []
    for shape, intensity in (("16x64x64", 1), ("64x64x64", 4), ("256x64x64", 16)):
        more = {"shape": shape, "bytes": 10**7 // intensity}
        ratio = Interval(2.0, 1.98, 2.02)
        fast = measured(windows(halved(JOULES), 5e-4), ratio=ratio, net=Interval(8e-4, 7e-4, 9e-4))
        records += [
            on_gpu(JOULES, error=0.0, **more),
            on_gpu(JOULES, halved([1e-3] * 5), way="ours", energy=fast, **more),
            on_gpu(JOULES, way="torch bf16", energy=unavailable("busy: 93 %"), **more),
        ]
    records[1] = replace(records[1], executed_flops=records[1].flops // 2)
    model = on_gpu([2.0] * 10, [1e-3] * 5, **MODEL)
    half = measured(windows([1.0] * 10, 5e-4), ratio=Interval(2.0, 1.9, 2.1))
    ours = on_gpu([1.0] * 10, [5e-4] * 5, way="ours", energy=half, **MODEL)
    return [*records, model, replace(ours, error=2e-3)]


@pytest.fixture
def cpu():
    """A run without joules, one way of which is not there."""
    missing = make((), way="ours triton", status="unavailable", reason="Triton has no CPU kernels")
    return [make(), make([5e-4] * 5, way="ours"), missing]


def row(text, way):
    """The cells of the first row of a way, by the heads above them."""
    lines = [re.split("[│┃]", line)[1:-1] for line in text.splitlines() if line[:1] in ("│", "┃")]
    heads = [[cell.strip() for cell in line] for line in lines if line[0].strip() == "way"]
    for line in lines:
        if line[0].strip() == way:
            return list(zip(heads[0], [cell.strip() for cell in line], strict=True))
    raise AssertionError(f"no row of {way}")


# Words


@given(st.floats(1e-11, 1e9))
def test_a_quantity_has_three_digits_and_one_prefix(value):
    number, unit = words.quantity(value, "J").split(" ")
    factor = {prefix: factor for factor, prefix in words.PREFIXES}[unit.removesuffix("J")]
    assert float(number) * factor == pytest.approx(value, rel=5.1e-3)
    assert 1 <= float(number) < 1000
    assert len(number.replace(".", "")) == 3


def test_a_quantity_without_a_unit_ends_in_its_number():
    assert [words.quantity(value, "") for value in (0, 720, 7.2e6)] == ["0", "720", "7.20 M"]


def test_fidelity_is_one_text_everywhere(gpu):
    fidelity = words.fidelity_text(gpu[-1])
    assert fidelity == "0.99800"
    assert dict(row(report.report_text(gpu[-2:]), "ours"))["cosine"] == fidelity
    line = next(t for t in markdown.markdown(gpu[-2:]).splitlines() if t.startswith("| ours |"))
    assert line.endswith(f"| {fidelity} |")


@pytest.mark.parametrize(
    "value, text",
    [(0.0009996, "1.00 ms"), (0.000999, "999 us"), (0, "0 s"), (12.3, "12.3 s"), (-2, "-2.00 s")],
)
def test_quantities(value, text):
    assert words.quantity(value, "s") == text


# The terminal


def test_joules_stand_with_their_intervals(gpu):
    cells = row(report.report_text(gpu[:9]), "ours")
    assert ("J/call", "1.00 mJ") in cells
    assert ("net of idle", "800 uJ") in cells
    assert ("J ratio", "2.00") in cells
    assert ("95 % interval", "1.98 - 2.02") in cells
    assert ("pJ/FLOP", "1.00") in cells and ("pJ/executed", "2.00") in cells
    assert ("labels", "full, normal data") in cells


def test_what_is_missing_has_its_reason_by_number(gpu):
    text = report.report_text(gpu[:9])
    cells = dict(row(text, "torch fp32"))
    assert cells["net of idle"] == "not identified (1)"
    assert "(1) net joules: idle power was not measured" in text
    assert dict(row(text, "torch bf16"))["J/call"] == "unavailable (2)"
    assert "(2) joules: busy: 93 %" in text
    assert cells["pJ/executed"] == ""  # the same as pJ/FLOP


def grid(g_per_kwh):
    return Grid(carbon.Intensity(g_per_kwh))


def test_a_model_has_its_units_and_its_quality_in_one_row(gpu):
    cells = dict(row(report.report_text(gpu[9:], grams=grid(9e5)), "ours"))
    assert cells["J/inference"] == "1.00 J"
    assert cells["J/token"] == "250 mJ"
    assert cells["samples/kWh"] == "7.20 M"
    assert cells["gCO2e/1k inferences"] == "250"
    assert cells["spearman"] == "0.8213"
    assert cells["cosine"] == "0.99800"


def test_grams_say_what_they_come_from(gpu):
    words = (
        "gCO2e: 400 g/kWh (year not stated, given by the user, basis not stated), PUE 1.0 (IT only)"
    )
    assert words in report.report_text(gpu, grams=grid(400))
    assert words in unescape(html.page(gpu, grams=grid(400)))


def test_grams_of_an_op_are_of_1e18_flops(gpu):
    cells = dict(row(report.report_text(gpu[:9], grams=grid(3.6)), "ours"))
    assert cells["gCO2e/1e18 FLOP"] == "1.00"


def test_labels_say_what_held_joules_back():
    energy = measured(windows(JOULES), power_limited=True, converged=False)
    r = on_gpu(JOULES, energy=energy, data="zeros", cold=True)
    text = dict(row(report.report_text([r]), "torch fp32"))["labels"]
    assert text == "full, zeros data, beyond cache, power-limited, not converged"
    one = on_gpu(JOULES[:1], protocol="quick", energy=measured(windows(JOULES[:1])))
    assert "none from 1 window" in report.report_text([one])


def test_an_estimate_has_a_column_of_its_own(cpu):
    records = [replace(r, assumed_watts=10.0, estimated_joules=0.01) for r in cpu]
    cells = dict(row(report.report_text(records), "ours"))
    assert cells["estimate at 10 W"] == "10.0 mJ"
    assert cells["J/call"] == "unavailable (1)"


def test_geometric_means_are_of_times_and_of_joules(gpu, cpu):
    text = report.report_text(gpu)
    assert "ours is 2.00x torch fp32 (3 shapes, 2.00 to 2.00)" in text
    assert "ours is 2.00x torch fp32 in joules (3 shapes, 2.00 to 2.00)" in text
    assert "geometric means" not in report.report_text(cpu)  # of one shape


def test_a_pipe_gets_plain_text_that_is_not_folded(gpu, cpu):
    cpu[1] = replace(cpu[1], way="w" * 300, reason=None)
    text = report.report_text([*gpu, *cpu, replace(cpu[2], reason="r" * 400)])
    assert "\x1b" not in text and "w" * 300 in text and "r" * 400 in text and "…" not in text


def test_a_narrow_terminal_leaves_columns_out_and_says_which(gpu):
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    report.print_report(gpu[:9], console)
    text = console.file.getvalue()
    table = [line for line in text.splitlines() if line[:1] in ("│", "┃")]
    assert max(map(len, table)) <= 100 and "…" not in text
    left = "dtype, quartiles, quartiles, TOPS, 95 % interval"
    assert f"left out for want of width, a pipe has it: {left}" in text
    assert "J/call" in table[0] and "pJ/FLOP" in table[0]


def test_operations_a_second_are_those_of_the_mathematics():
    r = make(flops=8_000_000_000, times=(4e-3,) * 5)
    lines = report.report_text([r]).splitlines()
    head = next(line for line in lines if "TOPS" in line)
    row = next(line for line in lines if r.way in line)
    cells = [[cell.strip() for cell in re.split("[│┃]", line)] for line in (head, row)]
    assert dict(zip(*cells, strict=True))["TOPS"] == "2.00"


def test_no_text_of_a_record_is_markup():
    assert "[/bold]" in report.report_text([make(dtype="[/bold]", shape="[red]", way="[/]")])


def test_no_records_are_said():
    assert report.report_text([]) == "no records\n"


# Markdown


def test_markdown_has_joules_only_where_there_are_any(gpu, cpu):
    text = markdown.markdown(gpu)
    assert "| int8_linear, pJ/FLOP | torch fp32 | ours | torch bf16 |" in text
    assert "| 16x64x64 | 2.00 (1.99 to 2.00) | 1.00 (0.995 to 1.00) |  |" in text
    assert "| int8_linear, pJ/executed FLOP |" in text
    assert (
        "| ours | fp32 | 500 us | 2.00 | 1.00 J (1.00 J to 1.00 J) | 2.00 (1.90 to 2.10) |" in text
    )
    assert "unavailable, busy: 93 %." in text
    text = markdown.markdown(cpu)
    assert "pJ" not in text and f"Joules: unavailable, {NO_METER}." in text
    assert "ours triton" not in text.split("Joules")[0]  # it was not timed


def test_markdown_has_a_block_for_each_run(gpu, cpu):
    text = markdown.markdown([*gpu, *cpu])
    assert text.count("green_kernels 0.1.0 at") == 2


def test_markdown_lets_no_text_end_a_cell_or_be_markup(cpu):
    text = markdown.markdown([replace(cpu[0], way="a|b <img>", baseline="a|b <img>")])
    assert "a\\|b &lt;img>" in text and "<img" not in text


def test_update_rewrites_what_stands_between_the_markers(cpu, gpu, tmp_path):
    (tmp_path / "results").mkdir()
    record.write(cpu, tmp_path / "results/a.jsonl")
    record.write(gpu, tmp_path / "b.jsonl")
    readme = tmp_path / "README.md"
    end = "<!-- end of records -->"
    readme.write_text(
        f"top\n<!-- records: results/a.jsonl -->\nold {end}\n"
        f"middle\n<!-- records: b.jsonl -->\n{end}\nbottom\n"
    )
    assert markdown.update(readme)
    assert readme.read_text() == (
        f"top\n<!-- records: results/a.jsonl -->\n{markdown.markdown(cpu)}{end}\n"
        f"middle\n<!-- records: b.jsonl -->\n{markdown.markdown(gpu)}{end}\nbottom\n"
    )
    assert not markdown.update(readme)


def test_update_refuses_a_marker_without_an_end(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- records: a.jsonl -->\nand all the rest")
    with pytest.raises(ValueError, match="has no <!-- end of records -->"):
        markdown.update(readme)
    assert readme.read_text() == "<!-- records: a.jsonl -->\nand all the rest"


# The roofline


@pytest.mark.parametrize(
    "name, chip, pico",
    [
        ("NVIDIA A100-SXM4-80GB", "A100 SXM", "fp32 20.5, tf32 2.56, bf16 1.28, int8 0.64"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80 GB", "bf16 0.96, int8 0.48"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", "fp32 10.5, tf32 1.41, bf16 0.71, int8 0.35"),
        ("NVIDIA H200", "H200 SXM", "bf16 0.71, int8 0.35"),
        ("NVIDIA H200 NVL", "H200 NVL", "bf16 0.72, int8 0.36"),
        ("NVIDIA H100 PCIe", "H100 PCIe", "bf16 0.46, int8 0.23"),
        ("NVIDIA L40S", "L40S", "bf16 0.97, int8 0.48"),
        ("NVIDIA B200", "B200", "bf16 0.44, int8 0.22"),
    ],
)
def test_tdp_over_peak_of_known_chips(name, chip, pico):
    found = roofline.chip(name)
    assert found.name == chip
    for dtype, text in (pair.split(" ") for pair in pico.split(", ")):
        places = len(text.partition(".")[2])
        assert f"{found.picojoules()[dtype]:.{places}f}" == text


@pytest.mark.parametrize(
    "name",
    [None, "", "NVIDIA GH200 480GB", "NVIDIA A100-PCIE-40GB", "NVIDIA H100 NVL", "NVIDIA GB200"],
)
def test_other_chips_have_no_line(name):
    assert roofline.chip(name) is None


@given(st.floats(0.1, 10), st.floats(1, 500))
def test_the_fit_finds_joules_per_flop_and_byte(per_flop, per_byte):
    points = [(x, per_flop + per_byte / x) for x in (1.0, 10.0, 100.0, 1000.0)]
    worse = [(x, 2 * y) for x, y in points]
    floor = roofline.fit([*points, *worse])
    assert floor.per_flop == pytest.approx(per_flop, rel=1e-3)
    assert floor.per_byte == pytest.approx(per_byte, rel=1e-3)
    assert floor.at(1.0) == pytest.approx(per_flop + per_byte, rel=1e-3)


def test_two_intensities_are_too_few_for_a_fit():
    assert roofline.fit([(1, 3.0), (2, 2.0), (2, 2.5), (1, 4.0)]) is None


def test_the_fit_has_no_negative_part():
    rising = roofline.fit([(1, 1.0), (10, 2.0), (100, 3.0)])
    falling = roofline.fit([(1, 10.0), (10, 0.5), (100, 0.01)])
    assert rising.per_byte == 0 and rising.per_flop > 0
    assert falling.per_flop == 0 and falling.per_byte > 0


# The uncertainty


def test_quantisation_is_the_sd_of_two_uniform_ends():
    generator = np.random.default_rng(0)
    tick, seconds = 0.1, 5.0
    start = generator.uniform(0, tick, 200_000)
    end = start + seconds + generator.uniform(0, tick, 200_000)
    ticks = np.floor(end / tick) - np.floor(start / tick)
    sd = np.std(ticks * tick - (end - start)) / seconds
    assert uncertainty.budget(on_gpu(JOULES)).unaligned == pytest.approx(sd, rel=0.01)


def test_aligned_quantisation_bounds_what_two_unsure_edges_do():
    generator = np.random.default_rng(0)
    half = blind(5.0) / 2  # the middle of an edge is told
    errors = generator.uniform(-half, half, (2, 200_000))
    sd = np.std(errors[1] - errors[0]) / 5.0
    assert uncertainty.budget(on_gpu(JOULES)).aligned == pytest.approx(sd, rel=0.01)


def test_the_budget_keeps_spread_and_drift_apart():
    rising = [1.0, 1.01, 1.02, 1.03, 1.04]
    steady = uncertainty.budget(on_gpu([1.0] * 5))
    drifting = uncertainty.budget(on_gpu(rising))
    assert (steady.spread, steady.drift) == (0, 0)
    assert drifting.drift == pytest.approx(0.04 / 1.02)
    assert drifting.spread == pytest.approx(np.std(rising, ddof=1) / 1.02)
    assert math.isclose(drifting.tick, 0.1) and drifting.windows == 5
    one = uncertainty.budget(on_gpu([1.0]))
    assert (one.spread, one.drift, one.half_width) == (None, None, None)
    assert uncertainty.budget(make()) is None


# The page


def test_a_way_looks_the_same_on_every_page_and_like_no_other():
    alone, all_ = palette.styles(["ours"]), palette.styles(["new", "newer", *WAYS])
    assert alone["ours"] == all_["ours"]
    looks = [(s.light, s.dark, s.marker) for s in all_.values()]
    assert len(set(looks)) == len(looks) >= len(WAYS) + 2
    colours = {(s.light, s.marker) for s in palette.styles(WAYS).values()}
    assert len({c for c, _ in colours}) == len({m for _, m in colours}) == len(WAYS)


@pytest.fixture
def page(request):
    """The page of a fixture's records."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    return html.page(request.getfixturevalue(request.param))


def test_write_leaves_the_page_its_plots_and_the_tables(gpu, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    written = html.write(gpu, tmp_path / "new" / "report")
    assert sorted(p.name for p in written) == sorted(
        p.name for p in (tmp_path / "new/report").iterdir()
    )
    assert [p.name for p in written[:2]] == ["report.html", "tables.md"]
    assert written[1].read_text() == markdown.markdown(gpu)
    # Three shapes in time and pJ/FLOP, the model in time and joules, and four plots of all.
    assert len(written[2:]) == 3 + 3 + 2 + 4
    for path in written[2:]:
        assert path.read_bytes().startswith(b"\x89PNG\r\n") and path.suffix == ".png"


def test_a_page_of_no_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match="records: there are none"):
        html.write([], tmp_path)


@pytest.mark.parametrize("module", ["matplotlib.figure", "jinja2"])
def test_what_is_not_installed_is_named(cpu, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "green_kernels\[report\]"'):
        html.write(cpu, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bench_imports_no_plots():
    code = "import sys, green_kernels.bench.html; print({'matplotlib', 'jinja2'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in out.stdout


@pytest.mark.parametrize("page", ["gpu", "cpu"], indirect=True)
def test_the_page_needs_nothing_else(page):
    assert not re.search(r"https?://|<script|<link|@import|\burl\((?!#)", page)


@pytest.mark.parametrize("page", ["cpu"], indirect=True)
def test_without_joules_the_page_has_reasons_and_no_empty_plot(page):
    for text in ("No joules here: unavailable", NO_METER, "Triton has no CPU kernels"):
        assert text in page
    assert 'aria-label="int8_linear 16x64x64: time"' in page
    assert "Energy roofline</text>" not in page and "pJ/FLOP</text>" not in page


@pytest.mark.parametrize("page", ["gpu"], indirect=True)
def test_with_joules_the_page_has_every_section(page):
    labels = ("16x64x64: time", "16x64x64: pJ/FLOP", "2x2 tokens: J/inference")
    for label in (*labels, "Energy roofline", "Speed and energy", "Accuracy of ops"):
        assert f'{label}"' in page
    assert "fit to the best way of each intensity" in page  # three intensities
    assert "700 W / peak of H100 SXM: reference line, not a bound" in page
    for text in ("0.82%", "0.04%", "known to 5 ms or better", "±5%"):
        assert text in page
    for text in ("not identified (1)", "busy: 93 %", GPU["gpu_uuid"]):
        assert text in page


def test_every_text_of_a_record_is_escaped(gpu):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    evil = '<script>alert("$x$")</script>&'
    texts = dict.fromkeys(("case", "shape", "way", "baseline", "dtype", "data"), evil)
    machine = GPU | {"cpu": evil, "note": [evil], evil: evil}
    bad = replace(gpu[1], **texts, machine=machine)
    for r in (bad, replace(bad, energy=unavailable(evil)), replace(bad, kind="model")):
        page = html.page([r])
        assert "<script" not in page and escape(evil, quote=False)[:20] in page


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Open a page in a frame of some width; return what a script in it finds."""
    if BROWSER is None:
        pytest.skip("no Chromium: apt-get install chromium")
    folder = tmp_path_factory.mktemp("browser")
    start = "<script>window.faults = []; onerror = m => {faults.push(m)};"
    start += "console.error = m => {faults.push(String(m))};</script>"
    end = """<script>onload = () => parent.postMessage(JSON.stringify({
      inner: innerWidth,
      scroll: document.scrollingElement.scrollWidth,
      faults: faults,
      requests: performance.getEntriesByType("resource").length,
      images: [...document.images].map(image => image.naturalWidth),
      plots: [...document.querySelectorAll("figure svg")].map(
        plot => [plot.getBoundingClientRect().width, plot.getBBox().height]),
      ids: [...document.querySelectorAll("a[href^='#']")].filter(
        link => !document.querySelector(link.getAttribute("href"))).length,
    }), "*");</script>"""
    host = """<!doctype html><iframe width=WIDTH height=900 style="border: 0"></iframe><pre></pre>
    <script>onmessage = m => {document.querySelector("pre").textContent = m.data};
    document.querySelector("iframe").srcdoc = PAGE;</script>"""

    def open_(page, width):
        page = page.replace("<head>", f"<head>{start}").replace("</body>", f"{end}</body>")
        text = json.dumps(page).replace("</", "<\\/")
        file = folder / "host.html"
        file.write_text(host.replace("WIDTH", str(width)).replace("PAGE", text))
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=10000"]
        command = [BROWSER, *options, "--dump-dom", file.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        return json.loads(unescape(re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL)[1]))

    return open_


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["gpu", "cpu"], indirect=True)
def test_the_page_in_a_browser(browse, page, width):
    found = browse(page, width)
    assert found["inner"] == width
    assert found["scroll"] <= width  # tables scroll inside their own boxes
    assert found["faults"] == [] and found["requests"] == 0
    assert all(size > 0 for size in found["images"])
    assert len(found["plots"]) >= 2
    for across, high in found["plots"]:
        assert across > 250 and high > 50
    assert found["ids"] == 0  # every link within the page has its target


def test_long_names_do_not_widen_the_page(browse, gpu):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    long = "w" * 200
    records = [replace(r, way=long, reason=long, machine=GPU | {"gpu": long}) for r in gpu[:1]]
    assert browse(html.page(records), 390)["scroll"] <= 390
