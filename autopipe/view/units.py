"""Times, bytes and shares as people read them: a unit that fits, and no more digits than matter."""

from __future__ import annotations

__all__ = ["format_bytes", "format_ms", "format_share", "time_unit"]

_TIME_UNITS = (("us", 1e-3), ("ms", 1.0), ("s", 1e3))
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def time_unit(largest_ms: float) -> tuple[str, float]:
    """Choose the unit in which the largest of several times is at least 1.

    Args:
        largest_ms: The largest of them.

    Returns:
        Its name, and how many ms it has. Nothing at all is in ms; what is below 1 us stays in us.

    Example:
        >>> time_unit(0.25), time_unit(11.8), time_unit(5400)
        (('us', 0.001), ('ms', 1.0), ('s', 1000.0))
    """
    if not largest_ms:
        return _TIME_UNITS[1]
    fitting = [unit for unit in _TIME_UNITS if round(largest_ms / unit[1], 1) >= 1]
    return fitting[-1] if fitting else _TIME_UNITS[0]


def format_ms(time_ms: float) -> str:
    """Print a time with its unit.

    Args:
        time_ms: The time.

    Returns:
        One decimal from 10 on, two below.

    Example:
        >>> format_ms(130.14), format_ms(0.0625), format_ms(2500), format_ms(0)
        ('130.1 ms', '62.5 us', '2.50 s', '0 ms')
    """
    if not time_ms:
        return "0 ms"
    unit, unit_ms = time_unit(time_ms)
    value = time_ms / unit_ms
    return f"{value:.{1 if value >= 9.995 else 2}f} {unit}"


def format_bytes(nbytes: float) -> str:
    """Print a number of bytes with its unit, in seven characters up to 999 TiB.

    Args:
        nbytes: The number.

    Returns:
        One decimal below 10, none above and for plain bytes.

    Example:
        >>> format_bytes(512), format_bytes(3 * 2**20), format_bytes(210 * 2**20), format_bytes(1020 * 2**20)
        ('512 B', '3.0 MiB', '210 MiB', '1.0 GiB')
    """
    value = float(nbytes)
    for unit in _BYTE_UNITS:
        if value < 999.5 or unit == _BYTE_UNITS[-1]:
            break
        value /= 1024
    return f"{value:.{1 if unit != 'B' and value < 9.95 else 0}f} {unit}"


def format_share(share: float) -> str:
    """Print a share as a percentage.

    Args:
        share: 1 is all of it.

    Returns:
        One decimal below 10 %, none above; exact zeros without.

    Example:
        >>> format_share(0.0257), format_share(0.2727), format_share(0), format_share(1e-5)
        ('2.6 %', '27 %', '0 %', '0.0 %')
    """
    percent = 100 * share
    return f"{percent:.{1 if percent and abs(percent) < 9.95 else 0}f} %"
