"""A simulated powercap tree: counters in files, which move as simulated time passes."""

from dataclasses import dataclass
from pathlib import Path

from fakes.clock import Clock


@dataclass
class Zone:
    """One folder with a counter; `watts` flow into it while the clock runs."""

    folder: Path
    watts: float
    joules: float  # on the counter, before it wraps
    largest: int  # microjoules at which it wraps to zero
    mirrored: "Zone | None" = None  # whose counter this one shows

    def write(self) -> None:
        """Publish the counter."""
        shown = self.mirrored or self
        microjoules = int(shown.joules * 1e6 + 0.5) % shown.largest
        (self.folder / "energy_uj").write_text(f"{microjoules}\n")


class FakePowercap:
    """Zones below `root`, as /sys/class/powercap shows them; `sleep` lets time pass for them."""

    def __init__(self, root: Path, clock: Clock):
        self.root, self.clock = root, clock
        self.zones: dict[str, Zone] = {}

    def add(
        self,
        folder: str,
        name: str,
        watts: float = 0.0,
        joules: float = 1.0,
        largest: int = 262_143_328_850,
        mirrors: str | None = None,
    ) -> None:
        """Make a zone, as intel-rapl:0 with the name package-0, whose counter is at `joules`."""
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{largest}\n")
        mirrored = None if mirrors is None else self.zones[mirrors]
        self.zones[folder] = Zone(path, watts, joules, largest, mirrored)
        self.zones[folder].write()

    def set_power(self, folder: str, watts: float) -> None:
        """Let the zone draw this from now on."""
        self.zones[folder].watts = watts

    def set_counter(self, folder: str, joules: float) -> None:
        """Put the counter there, as a reset does."""
        self.zones[folder].joules = joules
        self.zones[folder].write()

    def sleep(self, seconds: float) -> None:
        """Let time pass, and the counters grow by watts x seconds."""
        self.clock.sleep(seconds)
        for zone in self.zones.values():
            zone.joules += zone.watts * seconds
        for zone in self.zones.values():
            zone.write()

    def deny(self, monkeypatch) -> None:
        """Forbid reading the counters, as to all but root; root, who may run this, as well."""
        read_text = Path.read_text

        def denied(path, *args, **kwargs):
            if path.name == "energy_uj" and self.root in path.parents:
                raise PermissionError(13, "Permission denied")
            return read_text(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", denied)
