"""Numbers and durations as a reader sees them."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """A number for a table: counts with thin thousands, others with a fixed number of digits, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 2):
        return f"{int(value):,}".replace(",", "\u2009")
    return f"{value:.{digits}f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"


def setting(value: Any) -> str:
    """A setting as one would write it; a learning rate needs more digits than a DSC."""
    return f"{value:.4g}" if isinstance(value, float) and not math.isnan(value) else number(value)


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
