"""Time that passes only when told to: the clock and the sleep of everything simulated."""


class Clock:
    """Call it for the time in seconds, and let it `sleep` for time to pass."""

    def __init__(self, now: float = 100.0):
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, seconds
        self.now += seconds
