"""Numbers as people read them: scores, money, time and counts, with as many digits as they can bear.

Knows formats only; the same words stand in the verdict, the decision record and the report.
"""

from tunewise.contracts.evaluation import Interval

MINUS = "−"


def score(value: float) -> str:
    """A score from 0 to 1, such as 0.873."""
    return f"{value:.3f}"


def gain(value: float) -> str:
    """A signed difference of scores, such as +0.046."""
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else text.replace("-", MINUS)


def between(interval: Interval, *, signed: bool = False) -> str:
    """The two ends of an interval, such as "0.851 to 0.893"."""
    show = gain if signed else score
    return f"{show(interval.low)} to {show(interval.high)}"


def percent(share: float) -> str:
    """A share as a percentage, such as "95 %"."""
    return f"{100 * share:.3g} %"


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return f"{round(value):,}"


def about(value: float) -> str:
    """A count that is an estimate: two significant digits."""
    return count(float(f"{value:.2g}")) if value >= 100 else count(value)


def digits(value: float) -> str:
    """Three significant digits, without an exponent where people read amounts."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000:
        return count(value)
    text = f"{value:.3g}" if abs(value) >= 0.0001 else f"{value:.1e}"
    return text.replace("-", MINUS, 1) if value < 0 else text


def amount(value: float, currency: str | None) -> str:
    """Money, or machine time where there is no price: "0.214 USD", "0.35 machine-hours"."""
    return f"{digits(value)} {currency or 'machine-hours'}"


def duration(seconds: float) -> str:
    """Seconds as the largest two units that matter: "0.84 s", "4 min 5 s", "2 h 3 min"."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(n_bytes: float) -> str:
    """Bytes in binary units: "1.4 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1_024:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1_024
    return f"{n_bytes:.3g} GiB"


def plural(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun: "1 row", "3 rows"."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def listed(items: list[str]) -> str:
    """Items in a sentence: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
