"""Check what the types of single keys of `[rates]` cannot."""

from collections.abc import Iterator
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from joulebook.config.rates import (
    DAY_MINUTES,
    NEEDS,
    TAKES,
    CarbonSection,
    Price,
    PueSection,
    Rates,
    Water,
    days_of,
    minutes_of,
)


def conflicts(rates: Rates) -> Iterator[tuple[str, str]]:
    """Yield each key that is wrong, and what is wrong with it."""
    sections = (("price", rates.price), ("carbon", rates.carbon), ("pue_curve", rates.pue_curve))
    for name, section in sections:
        for key, what in _misfits(section, NEEDS[name], rates.zone):
            yield f"rates.{name}.{key}", what
    if rates.price.kind == "schedule":
        for key, what in _schedule(rates.price):
            yield f"rates.price.{key}", what
    if rates.pue is not None and rates.pue_curve.kind != "none":
        yield "rates.pue", f"{rates.pue:g}: expected either it or rates.pue_curve"
    yield from _water(rates.water)
    if rates.cache_dir and not rates.cache_dir.startswith("/"):
        yield "rates.cache_dir", f"{rates.cache_dir!r}: expected an absolute path"
    for pattern, gpu in rates.hardware.items():
        where = f'rates.hardware."{pattern}"'
        bought = gpu.price is not None and gpu.life_years is not None
        if (gpu.per_gpu_hour is not None) == bought or (
            gpu.per_gpu_hour is not None and gpu.price is not None
        ):
            yield where, "expected either per_gpu_hour, or price and life_years"
        elif gpu.price is not None and gpu.residual > gpu.price:
            yield f"{where}.residual", f"{gpu.residual:g}: expected at most price, {gpu.price:g}"


def _water(water: Water) -> Iterator[tuple[str, str]]:
    for name in ("site", "grid"):
        number = getattr(water, f"{name}_l_per_kwh")
        file, source = getattr(water, f"{name}_file"), getattr(water, f"{name}_source")
        key = f"rates.water.{name}"
        if number is not None and file:
            yield f"{key}_file", f"{file!r}: expected either it or {key}_l_per_kwh"
        elif file and not file.startswith("/"):
            yield f"{key}_file", f"{file!r}: expected an absolute path"
        elif number is not None and not source:
            yield f"{key}_source", f"expected the source of {key}_l_per_kwh = {number:g}"


def _misfits(
    section: Price | CarbonSection | PueSection, needs: dict[str, tuple[str, ...]], zone: str
) -> Iterator[tuple[str, str]]:
    kind = section.kind
    unset = type(section)()
    for key in section.__struct_fields__:
        given = getattr(section, key) != getattr(unset, key)
        if key in needs[kind] and not given and not (key == "zone" and zone):
            right = "expected a value here or in rates.zone" if key == "zone" else "expected one"
            yield key, f'{right}, since kind = "{kind}"'
        elif given and key not in ("kind", *needs[kind], *TAKES.get(kind, ())):
            takers = [k for k in needs if key in (*needs[k], *TAKES.get(k, ()))]
            yield key, f'kind = "{kind}" does not use it; it belongs to kind {" or ".join(takers)}'
    if section.file and not section.file.startswith("/"):
        yield "file", f"{section.file!r}: expected an absolute path"
    if section.url and (problem := _url_problem(section.url)):
        yield "url", problem


def _url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1)
    except ValueError:
        return "expected a URL like https://host:port/path"
    if not fits or parts.query or parts.fragment:
        return "expected a URL like https://host:port/path"
    if "@" in parts.netloc:
        return "expected a URL without user and password: put them in token_file"
    return ""


def _schedule(price: Price) -> Iterator[tuple[str, str]]:
    if price.timezone:
        try:
            ZoneInfo(price.timezone)
        except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError.
            yield (
                "timezone",
                f"{price.timezone!r}: expected a name like Europe/Berlin that this machine knows "
                "(in /usr/share/zoneinfo, package tzdata)",
            )
    for i, window in enumerate(price.windows):
        where = f"windows[{i}]"
        try:
            days_of(window.days)
        except ValueError as error:
            yield f"{where}.days", str(error)
        for key, text, last in (
            ("from", window.from_, DAY_MINUTES - 1),
            ("to", window.to, DAY_MINUTES),
        ):
            try:
                minutes_of(text, last)
            except ValueError as error:
                yield f"{where}.{key}", str(error)
        if window.per_kwh is None:
            yield f"{where}.per_kwh", "expected a price per kWh"
