"""carbon: the formula by hand, what is not known stays unknown, and nothing is looked up online."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from green_kernels import carbon
from green_kernels.carbon import Embodied, Intensity, emissions, per

USA = Intensity(369.0, "codecarbon 3.3.2", 2023, "production mix", place="USA")
FRANCE = Intensity(56.0, "codecarbon 3.3.2", 2023, "production mix", place="FRA")
H200 = 590.0 * 3600  # joules of an hour at 590 W

TABLE = {
    "FRA": {"country_name": "France", "carbon_intensity": 56.039, "year": 2023},
    "DEU": {"country_name": "Germany", "carbon_intensity": 380.95, "year": 2023},
    "NER": {"country_name": "Niger", "carbon_intensity": 670.89, "year": 2022},
    "CAF": {"country_name": "Central African Republic", "carbon_intensity": 0.0, "year": 2022},
}


@pytest.fixture
def codecarbon(monkeypatch):
    """codecarbon and the pycountry that comes with it, as far as they are used."""
    package, data, countries = map(ModuleType, ("codecarbon", "codecarbon.input", "pycountry"))
    package.__version__ = "3.3.2"
    data.DataSource = lambda: SimpleNamespace(get_global_energy_mix_data=lambda: TABLE)
    alpha_3 = {"FR": "FRA", "DE": "DEU"}
    countries.countries = SimpleNamespace(
        get=lambda alpha_2: alpha_2 in alpha_3 and SimpleNamespace(alpha_3=alpha_3[alpha_2]) or None
    )
    for module in (package, data, countries):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_an_hour_at_590_watts():
    assert carbon.joules(590, 3600) == H200 == 2_124_000
    assert carbon.kwh(H200) == pytest.approx(0.59)
    assert emissions(H200, USA).total_g == pytest.approx(217.71)  # 0.59 * 369
    assert emissions(H200, FRANCE, pue=1.5).total_g == pytest.approx(49.56)  # 0.59 * 1.5 * 56


def test_embodied_share_is_total_by_time_by_reservation():
    # 318 kg over 5 years: 318000 g / 43830 h; half a year of 1 of 8 GPUs is an 80th of it all.
    hour = Embodied(total_kg=318, lifetime_years=5, seconds=3600)
    assert hour.grams == pytest.approx(318000 / 43830)
    eighth = Embodied(total_kg=800, lifetime_years=5, seconds=15778800, reserved_share=0.125)
    assert eighth.grams == pytest.approx(10_000)


def test_embodied_is_off_unless_given():
    without, share = emissions(H200, USA), Embodied(total_kg=318, lifetime_years=5, seconds=3600)
    assert without.embodied_g is None and without.total_g == without.operational_g
    both = emissions(H200, USA, embodied=share)
    assert both.operational_g == without.operational_g
    assert both.total_g == pytest.approx(217.71 + 318000 / 43830)


def test_every_factor_is_said_with_its_source():
    share = Embodied(total_kg=318, lifetime_years=5, seconds=3600, source="Chien 2023")
    assert emissions(H200, USA, embodied=share).provenance == (
        "0.59 kWh x PUE 1.0 (IT only) x 369 g/kWh (USA 2023, codecarbon 3.3.2, production mix)",
        "embodied 318 kg x 3600 s of 5 years x share 1 (Chien 2023)",
    )
    (told,) = emissions(H200, Intensity(400), pue=1.58).provenance
    assert told == (
        "0.59 kWh x PUE 1.58 (given by the user) x "
        "400 g/kWh (year not stated, given by the user, basis not stated)"
    )
    assert str(emissions(H200, USA)).startswith("217.7 g CO2e = 0.59 kWh x PUE 1.0 (IT only)")


@pytest.mark.parametrize(
    "units, unit, grams",
    [(4096 / 1000, "1k tokens", 53.1519), (32, "inference", 6.80344), (0.5, "1e18 FLOP", 435.42)],
)
def test_per_functional_unit(units, unit, grams):
    each = per(emissions(H200, USA), units, unit)
    assert each.total_g == pytest.approx(grams, rel=1e-4) and each.unit == unit
    assert unit in str(each) and unit in each.provenance[0]


def test_no_joules_is_no_carbon_with_the_reason():
    unknown = emissions(None, USA, reason="no energy counter")
    assert unknown.operational_g is None and unknown.total_g is None
    assert "no energy counter" in unknown.reason and "unavailable" in str(unknown)
    assert per(unknown, 10, "inference").total_g is None
    assert per(unknown, 10, "inference").reason == unknown.reason
    share = Embodied(total_kg=318, lifetime_years=5, seconds=3600)
    assert emissions(None, USA, embodied=share).total_g is None  # the share alone is no total


def test_no_joules_anywhere_is_no_sum():
    both = emissions(H200, USA) + emissions(None, USA, reason="no energy counter")
    assert both.total_g is None and "no energy counter" in both.reason


def test_measured_zero_is_zero():
    assert emissions(0, USA).total_g == 0 and emissions(0, USA).reason is None


def test_sum_over_grids_of_one_basis():
    both = emissions(H200, USA) + emissions(H200, FRANCE)
    assert both.total_g == pytest.approx(0.59 * (369 + 56))
    assert len(both.provenance) == 2 and "USA" in both.provenance[0] and "FRA" in both.provenance[1]


@pytest.mark.parametrize(
    "other, message",
    [
        (emissions(H200, Intensity(500, basis="marginal")), "two bases.*production mix, marginal"),
        (emissions(H200, Intensity(500)), "two bases.*basis not stated"),
        (per(emissions(H200, USA), 2, "inference"), "the whole work and inference"),
        (
            emissions(
                H200, USA, embodied=Embodied(total_kg=1, lifetime_years=1, seconds=1)
            ),
            "embodied",
        ),
    ],
    ids=["another basis", "no basis", "per inference", "with embodied"],
)  # fmt: skip
def test_what_was_counted_differently_is_not_added(other, message):
    with pytest.raises(ValueError, match=message):
        emissions(H200, USA) + other


def test_two_unstated_bases_are_not_taken_to_be_one():
    with pytest.raises(ValueError, match="basis of its intensity is stated"):
        emissions(1, Intensity(400)) + emissions(1, Intensity(300))
    with pytest.raises(TypeError):
        emissions(1, USA) + 3


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: carbon.joules(-1, 1), "watts must be finite and not negative, got -1"),
        (lambda: carbon.joules(1, NAN), "seconds must be finite"),
        (lambda: carbon.kwh(INF), "joules must be finite"),
        (lambda: emissions(-1.0, USA), "joules must be finite and not negative"),
        (lambda: emissions(NAN, USA), "joules must be finite"),
        (lambda: emissions(1, USA, pue=0.9), "pue must be at least 1.*got 0.9"),
        (lambda: emissions(1, USA, pue=NAN), "pue must be finite"),
        (lambda: Intensity(-3), "g_per_kwh must be finite and not negative"),
        (lambda: Intensity(3, source=" "), "source must not be empty"),
        (lambda: Intensity(3, year=23), "year must be an int, as 2023, or None, got 23"),
        (lambda: Intensity(3, year=True), "year must be an int"),
        (lambda: Embodied(total_kg=1, lifetime_years=0, seconds=0), "lifetime_years must be more"),
        (lambda: Embodied(total_kg=1, lifetime_years=1, seconds=4e7), "not exceed the lifetime"),
        (
            lambda: Embodied(total_kg=1, lifetime_years=1, seconds=1, reserved_share=8),
            "reserved_share must be at most 1, got 8",
        ),
        (lambda: per(emissions(1, USA), 0), "units must be more than 0"),
        (lambda: per(emissions(1, USA), 1, ""), "unit must have a name"),
        (lambda: per(per(emissions(1, USA), 1, "a"), 1, "b"), "they are per a"),
    ],
)
def test_numbers_that_make_no_sense(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: emissions("1", USA), "joules must be a number, got '1'"),
        (lambda: emissions(True, USA), "joules must be a number, got True"),
        (lambda: emissions(1, 369), r"intensity must be an Intensity, as Intensity\(369\)"),
        (lambda: emissions(1, None), "intensity must be an Intensity"),  # there is no default
        (lambda: emissions(1, USA, embodied=318), "embodied must be an Embodied or None"),
        (lambda: Intensity(1, place=None), "place must be a str, got None"),
        (lambda: Intensity.of_country(33), "code must be a str, as 'FRA', got 33"),
    ],
)
def test_values_of_the_wrong_type(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("code", ["FRA", "fra", "FR", " fr "])
def test_of_country_keeps_year_and_source(codecarbon, code):
    assert Intensity.of_country(code) == Intensity(
        56.039, "codecarbon 3.3.2", 2023, "production mix, lifecycle", "FRA"
    )


@pytest.mark.parametrize(
    "code, message",
    [
        ("GER", r"no country 'GER': near it are DEU \(Germany\), NER \(Niger\)"),
        ("Frankreich", r"near it are FRA \(France\)"),
        ("QQ", "its codes are ISO alpha-3"),
        ("", "its codes are ISO alpha-3"),
        ("CAF", "no intensity for CAF: give it as a number"),  # 0 in the table is not known
    ],
)
def test_of_country_refuses_with_help(codecarbon, code, message):
    with pytest.raises(ValueError, match=message):
        Intensity.of_country(code)


def test_of_country_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "codecarbon", None)  # as if not installed
    with pytest.raises(
        carbon.Unavailable, match=r"pip install 'green_kernels\[carbon\]'.*Intensity\("
    ):
        Intensity.of_country("FRA")


def test_importing_it_imports_neither_torch_nor_codecarbon():
    code = f"""
import runpy, sys
runpy.run_path({carbon.__file__!r}, run_name="carbon")
print({{"torch", "codecarbon", "pandas", "numpy", "requests"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_real_table_has_countries_years_and_sources():
    pytest.importorskip("codecarbon", reason="needs the [carbon] extra")
    france, india = (Intensity.of_country(code) for code in ("FRA", "IND"))
    assert 0 < france.g_per_kwh < 100 < india.g_per_kwh < 1000
    assert france.year >= 2022 and "codecarbon" in france.source and france.place
