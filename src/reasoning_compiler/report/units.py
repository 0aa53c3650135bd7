"""Numbers as people read them: three significant digits and a unit that fits."""

from __future__ import annotations

_TIME_UNITS = ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"))
_RATE_UNITS = ((1.0, ""), (1e3, "K"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"))


def time_text(secs: float, *, is_bound: bool = False) -> str:
    """Returns a time as "8.4 ms", "1.2 s", "2 min 5 s" or "3 h 20 min"; a lower bound as "> 8.4 ms"."""
    if is_bound:
        return f"> {time_text(secs)}"
    if round(secs) >= 3600:
        hours, minutes = divmod(round(secs / 60), 60)
        return f"{hours} h {minutes} min"
    if round(secs, 1) >= 60:
        minutes, rest = divmod(round(secs), 60)
        return f"{minutes} min {rest} s"
    return "0 s" if secs == 0 else _scaled(secs, _TIME_UNITS)


def range_text(low_secs: float, high_secs: float) -> str:
    """Returns two times as "8.4 – 8.9 ms", or with a unit each where they differ in it."""
    low, high = time_text(low_secs).split(), time_text(high_secs).split()
    if len(low) == len(high) == 2 and low[1] == high[1]:
        low = low[:1]
    return f"{' '.join(low)} – {' '.join(high)}"


def flops_text(flops_per_sec: float) -> str:
    """Returns a rate of computing as "512 GFLOP/s"."""
    return f"{_scaled(flops_per_sec, _RATE_UNITS)}FLOP/s"


def bandwidth_text(bytes_per_sec: float) -> str:
    """Returns a rate of moving data as "14.6 GB/s"."""
    return f"{_scaled(bytes_per_sec, _RATE_UNITS)}B/s"


def size_text(num_bytes: float) -> str:
    """Returns an amount of memory as "48 KB" or "32 MB", in powers of 1024."""
    for scale, unit in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if num_bytes >= scale:
            return f"{_three_digits(num_bytes / scale)} {unit}"
    return f"{num_bytes:.0f} B"


def ratio_text(ratio: float) -> str:
    """Returns a speed-up as "8.84×", "0.95×" or "1340×"."""
    return f"{_three_digits(ratio)}×"


def share_text(share: float) -> str:
    """Returns a part of a whole as "59%", or "0.4%" where it is small."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{share:.1%}" if 0 < share < 0.0095 else f"{share:.0%}"


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    """Returns the value in the largest unit in which it rounds to 1 or more, else in the smallest."""
    for scale, unit in reversed(units):
        if float(f"{value / scale:.3g}") >= 1:
            return f"{_three_digits(value / scale)} {unit}"
    return f"{_three_digits(value / units[0][0])} {units[0][1]}"


def _three_digits(value: float) -> str:
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"
