"""The two ways in which a job ends early, told apart by exit status."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(Exception):
    """Mistakes found before any work starts (exit status 2). Holds all of them, not only the first."""

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        super().__init__("\n".join(self.mistakes))


class RunError(Exception):
    """A failure during the work (exit status 1). The message says what, where, and what to do about it."""
