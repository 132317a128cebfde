"""The two ways in which a job ends early, told apart by exit status."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(Exception):
    """Mistakes found before any work starts (exit status 2). Holds all of them, not only the first."""

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__("\n".join(self.mistakes))


def shortened(mistakes: list[str], most: int = 10) -> list[str]:
    """Mistakes of one kind; of many the first, and how many more there are."""
    more = len(mistakes) - most
    return mistakes if more <= 0 else [*mistakes[:most], f"... and {more} more of this kind"]


class RunError(Exception):
    """A failure during the work (exit status 1). The message says what, where, and what to do about it."""
