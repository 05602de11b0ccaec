"""Grams of CO2-equivalent from joules: kWh times PUE times grid intensity, and an embodied share.

The formula is that of the Software Carbon Intensity specification (ISO/IEC 21031:2024, SCI):
((E * I) + M) per R. Nothing here looks up where the machine is, and no country is a default.
"""

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any

JOULES_PER_KWH = 3.6e6
SECONDS_PER_YEAR = 365.25 * 86400
NOT_STATED = "basis not stated"


class Unavailable(ImportError):
    """Intensities of countries cannot be had here; the message says what to install."""


def joules(watts: float, seconds: float) -> float:
    """E = P * t: joules of a mean power in watts over a time in seconds.

    Raises TypeError or ValueError for what is no finite number, or negative.
    """
    return _number("watts", watts) * _number("seconds", seconds)


def kwh(joules: float) -> float:
    """E / 3.6e6: joules in kilowatt-hours.

    Raises TypeError or ValueError for what is no finite number, or negative.
    """
    return _number("joules", joules) / JOULES_PER_KWH


@dataclass(frozen=True)
class Intensity:
    """Grams of CO2-equivalent per kWh of electricity, and where the number is from.

    g_per_kwh: grams per kilowatt-hour
    source: of the number: a data set and its version, a supplier's contract
    year: that it is of, None if that is not known
    basis: what was counted, as "production mix, lifecycle" or "marginal, operational". Carbon of
        two bases cannot be added.
    place: the grid that it is of

    Raises TypeError or ValueError, naming the field, for what it cannot hold.
    """

    g_per_kwh: float
    source: str = "given by the user"
    year: int | None = None
    basis: str = NOT_STATED
    place: str = ""

    def __post_init__(self):
        """Check each field."""
        _number("g_per_kwh", self.g_per_kwh)
        for name in ("source", "basis", "place"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a str, got {getattr(self, name)!r}")
        for name in ("source", "basis"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must not be empty: carbon is shown with its {name}")
        if self.year is not None and (type(self.year) is not int or not 1900 <= self.year <= 2200):
            raise ValueError(f"year must be an int, as 2023, or None, got {self.year!r}")

    @classmethod
    def of_country(cls, code: str) -> "Intensity":
        """Yearly mean of a country's production mix over the lifecycle of its power stations.

        code: ISO 3166-1 alpha-3 or alpha-2: "FRA", "FR"

        From the table in codecarbon (values of Our World in Data and Ember, CC BY 4.0), which is
        read from disk. Raises Unavailable where codecarbon is not installed, ValueError with near
        matches for a country that the table lacks.
        """
        if not isinstance(code, str):
            raise TypeError(f"code must be a str, as 'FRA', got {code!r}")
        try:
            from codecarbon import __version__
            from codecarbon.input import DataSource
        except ImportError as error:
            raise Unavailable(
                "intensities of countries come with codecarbon, which is not installed: "
                "pip install 'green_kernels[carbon]', or give a number: Intensity(g_per_kwh)"
            ) from error
        table = DataSource().get_global_energy_mix_data()
        key = _alpha_3(code.strip().upper())
        if key not in table:
            raise ValueError(f"codecarbon has no country {code!r}: {_near(key, table)}")
        grams = table[key]["carbon_intensity"]
        if not grams:  # over a lifecycle no electricity is free of carbon: it is not known
            raise ValueError(f"codecarbon has no intensity for {key}: give it as a number")
        return cls(
            float(grams),
            source=f"codecarbon {__version__}",
            year=int(table[key]["year"]),
            basis="production mix, lifecycle",
            place=key,
        )

    def __str__(self) -> str:
        """Return the number with all that is known of it."""
        of = f"{self.place} {self.year or 'year not stated'}".strip()
        return f"{self.g_per_kwh:.4g} g/kWh ({of}, {self.source}, {self.basis})"


@dataclass(frozen=True, kw_only=True)
class Embodied:
    """M = TE * TS * RS: the share of the carbon of making hardware that falls on a piece of work.

    total_kg: TE, kg of CO2-equivalent of making the hardware
    lifetime_years: EL, that the hardware is expected to be used for
    seconds: TiR, for which it was reserved, idle or not; TS = TiR / EL
    reserved_share: RS, the part of it that was reserved: 1 of 8 GPUs is 0.125
    source: of total_kg

    Raises TypeError or ValueError, naming the field, for what it cannot hold.
    """

    total_kg: float
    lifetime_years: float
    seconds: float
    reserved_share: float = 1.0
    source: str = "given by the user"

    def __post_init__(self):
        """Check each field."""
        for name in ("total_kg", "lifetime_years", "seconds", "reserved_share"):
            _number(name, getattr(self, name))
        if self.lifetime_years == 0:
            raise ValueError("lifetime_years must be more than 0, got 0")
        if self.reserved_share > 1:
            raise ValueError(f"reserved_share must be at most 1, got {self.reserved_share}")
        if self.seconds > self.lifetime_years * SECONDS_PER_YEAR:
            got = f"{self.seconds} s of {self.lifetime_years} years"
            raise ValueError(f"seconds must not exceed the lifetime, got {got}")

    @property
    def grams(self) -> float:
        """Grams of CO2-equivalent that fall on the work."""
        time_share = self.seconds / (self.lifetime_years * SECONDS_PER_YEAR)
        return 1e3 * self.total_kg * time_share * self.reserved_share

    def __str__(self) -> str:
        """Return the factors."""
        time = f"{self.seconds:.4g} s of {self.lifetime_years:.4g} years"
        return f"{self.total_kg:.4g} kg x {time} x share {self.reserved_share:.4g} ({self.source})"


@dataclass(frozen=True)
class Emissions:
    """Grams of CO2-equivalent of a piece of work. None is "not known", and reason says why.

    operational_g: of the electricity
    embodied_g: the share of the hardware's making; None, with no reason, where it was left out
    basis: of the intensity
    provenance: each product that went in, with its factors in words
    unit: what the grams are for: "" is the whole work
    """

    operational_g: float | None
    embodied_g: float | None
    basis: str
    provenance: tuple[str, ...]
    reason: str | None = None
    unit: str = ""

    @property
    def total_g(self) -> float | None:
        """Operational and, where it was asked for, embodied; None where the first is not known."""
        if self.operational_g is None:
            return None
        return self.operational_g + (self.embodied_g or 0.0)

    def __add__(self, other: "Emissions") -> "Emissions":
        """Return the sum; ValueError where the two were not counted in the same way."""
        if not isinstance(other, Emissions):
            return NotImplemented
        if self.basis != other.basis:
            raise ValueError(f"carbon of two bases cannot be added: {self.basis}, {other.basis}")
        if self.basis == NOT_STATED:
            raise ValueError("carbon can be added only where the basis of its intensity is stated")
        if (self.embodied_g is None) != (other.embodied_g is None):
            raise ValueError("carbon with an embodied share and carbon without cannot be added")
        if self.unit != other.unit:
            units = " and ".join(unit or "the whole work" for unit in (self.unit, other.unit))
            raise ValueError(f"carbon per different units cannot be added: {units}")
        return replace(
            self,
            operational_g=_sum(self.operational_g, other.operational_g),
            embodied_g=_sum(self.embodied_g, other.embodied_g),
            provenance=self.provenance + other.provenance,
            reason="; ".join(dict.fromkeys(filter(None, (self.reason, other.reason)))) or None,
        )

    def __str__(self) -> str:
        """Return the total and every factor of it."""
        per_unit = f" per {self.unit}" if self.unit else ""
        if self.total_g is None:
            return f"CO2e{per_unit} unavailable: {self.reason}"
        return f"{self.total_g:.4g} g CO2e{per_unit} = {' + '.join(self.provenance)}"


def emissions(
    joules: float | None,
    intensity: Intensity,
    pue: float = 1.0,
    embodied: Embodied | None = None,
    reason: str | None = None,
) -> Emissions:
    """E * PUE * I + M: grams of CO2-equivalent of a measured energy.

    joules: E, of all that the hardware took, idle too; None where it could not be measured
    intensity: I, of the grid
    pue: power usage effectiveness, facility / IT energy, at least 1; 1.0 counts the IT alone
    embodied: M, where the figures are known; None leaves it out
    reason: why joules is None, if it is

    Raises TypeError or ValueError, naming the argument, for what it cannot be.
    Source: ISO/IEC 21031:2024, Software Carbon Intensity.
    """
    if not isinstance(intensity, Intensity):
        raise TypeError(f"intensity must be an Intensity, as Intensity(369), got {intensity!r}")
    if embodied is not None and not isinstance(embodied, Embodied):
        raise TypeError(f"embodied must be an Embodied or None, got {embodied!r}")
    if _number("pue", pue) < 1:
        raise ValueError(f"pue must be at least 1, facility / IT energy, got {pue}")
    share = () if embodied is None else (f"embodied {embodied}",)
    factors = f"{pue_text(pue)} x {intensity}"
    if joules is None:
        energy, operational = "unknown kWh", None
        reason = f"joules are not known: {reason or 'no reason given'}"
    else:
        energy, operational = f"{kwh(joules):.3g} kWh", kwh(joules) * pue * intensity.g_per_kwh
        if not math.isfinite(operational):
            raise ValueError(f"joules x pue x intensity is beyond all numbers, got {joules} J")
        reason = None
    return Emissions(
        operational_g=operational,
        embodied_g=None if embodied is None else embodied.grams,
        basis=intensity.basis,
        provenance=(f"{energy} x {factors}", *share),
        reason=reason,
    )


def pue_text(pue: float) -> str:
    """PUE in words, with what it counts or where it is from: PUE 1.0 (IT only)."""
    scope = "IT only" if pue == 1 else "given by the user"
    return f"PUE {float(pue):.4} ({scope})"


def per(emissions: Emissions, units: float, unit: str = "unit") -> Emissions:
    """C / R: the carbon of one functional unit, as SCI has it.

    units: R, how many there were: inferences; tokens / 1000; FLOP / 1e18
    unit: its name: "inference", "1k tokens", "1e18 FLOP"

    What is not known stays None, with its reason. Raises TypeError or ValueError for units that
    are no finite number above 0, and for carbon that is per another unit already.
    """
    if _number("units", units) == 0:
        raise ValueError("units must be more than 0, got 0")
    if emissions.unit:
        raise ValueError(f"emissions must be of the whole work, they are per {emissions.unit}")
    if not unit:
        raise ValueError("unit must have a name, as '1k tokens', got ''")

    def share(grams: float | None) -> float | None:
        return None if grams is None else grams / units

    provenance = tuple(f"({product}) / {units:.4g} {unit}" for product in emissions.provenance)
    return replace(
        emissions,
        operational_g=share(emissions.operational_g),
        embodied_g=share(emissions.embodied_g),
        provenance=provenance,
        unit=unit,
    )


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return number


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _alpha_3(code: str) -> str:
    """Return the three letters for two, by pycountry, which codecarbon brings."""
    if len(code) != 2:
        return code
    try:
        import pycountry
    except ImportError:
        return code
    country = pycountry.countries.get(alpha_2=code)
    return code if country is None else country.alpha_3


def _near(code: str, table: dict[str, dict[str, Any]]) -> str:
    """Return the countries whose code or name is most like what was asked for, in words."""
    names = {row["country_name"].upper(): key for key, row in table.items()}
    names |= {key: key for key in table}
    begin = [name for name in names if code and name.startswith(code)]
    like = [*begin, *get_close_matches(code, names, n=3, cutoff=0.5)]
    found = dict.fromkeys(names[name] for name in like)
    listed = ", ".join(f"{key} ({table[key]['country_name']})" for key in [*found][:4])
    return f"near it are {listed}" if found else "its codes are ISO alpha-3, as 'FRA'"
