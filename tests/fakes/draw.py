"""The power a simulated board draws: watts, joules and degrees at any time, in closed form."""

import random
from bisect import bisect_right
from dataclasses import dataclass
from math import exp

BEFORE = 10.0  # seconds of history at the first power, for averages that look back


@dataclass(frozen=True)
class Piece:
    """From `start` on: watts that decay from `first` to `last` with the time constant `ramp`."""

    start: float
    first: float
    last: float
    joules: float  # up to start
    celsius: float  # at start


class Draw:
    """Power over time, as pieces that each tend to a constant.

    heat: ambient temperature in C, C per watt, and the time constant in s.
    noise: standard deviation in W of a level that is drawn anew each second.
    """

    def __init__(self, now, watts, ramp=0.0, heat=(30.0, 0.06, 20.0), noise=0.0, seed=0):
        self.ramp, self.heat, self.noise = ramp, heat, noise
        assert ramp != heat[2], "equal time constants have no such closed form"
        ambient, per_watt, _ = heat
        start = now - BEFORE
        self.pieces = [Piece(start, watts, watts, -BEFORE * watts, ambient + per_watt * watts)]
        self.starts = [start]
        self.origin, self.random, self.noise_joules = now, random.Random(seed), [0.0]
        self.levels = []

    def set(self, now, watts):
        """Tend to `watts` from now on."""
        if watts == self.pieces[-1].last:
            return
        first = self.plain_watts(now) if self.ramp else watts
        self.pieces.append(Piece(now, first, watts, self.plain_joules(now), self.celsius(now)))
        self.starts.append(now)

    def piece(self, time):
        """The piece that holds at a time, and the seconds since its start."""
        piece = self.pieces[max(bisect_right(self.starts, time) - 1, 0)]
        return piece, time - piece.start

    def plain_watts(self, time):
        """Watts at a time, without the noise."""
        piece, passed = self.piece(time)
        if not self.ramp:
            return piece.last
        return piece.last + (piece.first - piece.last) * exp(-passed / self.ramp)

    def plain_joules(self, time):
        """Integral of the watts up to a time, without the noise."""
        piece, passed = self.piece(time)
        joules = piece.joules + piece.last * passed
        if self.ramp:
            joules += (piece.first - piece.last) * self.ramp * (1 - exp(-passed / self.ramp))
        return joules

    def joules(self, time):
        """Integral of the watts up to a time; zero at the start."""
        if not self.noise or time <= self.origin:
            return self.plain_joules(time)
        second, part = divmod(time - self.origin, 1.0)
        while len(self.levels) <= second:
            self.levels.append(self.random.gauss(0.0, self.noise))
            self.noise_joules.append(self.noise_joules[-1] + self.levels[-1])
        noise = self.noise_joules[int(second)] + part * self.levels[int(second)]
        return self.plain_joules(time) + noise

    def mean(self, time, window):
        """Mean watts of the `window` seconds before a time."""
        return (self.joules(time) - self.joules(time - window)) / window

    def celsius(self, time):
        """Temperature: first order towards ambient + C per watt * watts."""
        ambient, per_watt, constant = self.heat
        piece, passed = self.piece(time)
        steady = ambient + per_watt * piece.last
        lag = 0.0  # of what follows the ramp
        if self.ramp:
            lag = per_watt * (piece.first - piece.last) * self.ramp / (self.ramp - constant)
        cooled = (piece.celsius - steady - lag) * exp(-passed / constant)
        return steady + cooled + (lag * exp(-passed / self.ramp) if self.ramp else 0.0)


class BoxcarCounter:
    """Sum over ticks of (mean watts of the last `window` seconds before the tick) * period."""

    def __init__(self, draw, phase, period, window, first):
        self.draw, self.phase, self.period, self.window = draw, phase, period, window
        self.next, self.sum = first + 1, 0.0

    def joules(self, tick):
        """The sum up to and with a tick, which must not lie before the last one asked for."""
        while self.next <= tick:
            begin = self.phase + self.next * self.period - self.window
            piece, passed = self.draw.piece(begin)
            following = bisect_right(self.draw.starts, begin)
            end = self.draw.starts[following] if following < len(self.draw.starts) else None
            last = tick if end is None else min(tick, int((end - self.phase) // self.period))
            count = last - self.next + 1
            if count < 2 or self.draw.noise:  # this tick's window may hold several pieces
                self.sum += self.draw.mean(begin + self.window, self.window) * self.period
                self.next += 1
                continue
            self.sum += count * piece.last * self.period
            if self.draw.ramp:  # a geometric series
                ramp, window = self.draw.ramp, self.window
                ratio = exp(-self.period / ramp)
                series = (1 - ratio**count) / (1 - ratio) * exp(-passed / ramp)
                mean = (piece.first - piece.last) * ramp * (1 - exp(-window / ramp)) / window
                self.sum += mean * series * self.period
            self.next = last + 1
        return self.sum
