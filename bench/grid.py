"""Grams of CO2-equivalent of a record's joules, by the grid that a command line names."""

from dataclasses import dataclass

from green_kernels import carbon


@dataclass(frozen=True)
class Grid:
    """Call it with joules for grams; as text it says what each gram comes from."""

    intensity: carbon.Intensity
    pue: float = 1.0

    def __call__(self, joules: float) -> float:
        """Return gCO2e of joules: kWh x PUE x intensity, without an embodied share."""
        return carbon.emissions(joules, self.intensity, pue=self.pue).total_g

    def __str__(self) -> str:
        """Return the factors and their source."""
        return f"gCO2e: {self.intensity}, {carbon.pue_text(self.pue)}, no embodied share"
