"""From the configuration to sources: each kind, the country table, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebook.config import load
from joulebook.config.rates import NEEDS, Rates, days_of, minutes_of, missing
from joulebook.core.money.rates import Quality
from joulebook.errors import ConfigError
from joulebook.rates.contract import Quantity
from joulebook.rates.sources import CARBON, PRICES, Feed, basis, feeds
from joulebook.rates.tariff import Country


def rates(tmp_path: Path, text: str) -> Rates:
    path = tmp_path / "joulebook.toml"
    path.write_text(text)
    return load(path, {}).rates


def made(tmp_path: Path, text: str) -> list[Feed]:
    return feeds(rates(tmp_path, text), {})


def test_nothing_is_assumed() -> None:
    assert feeds(Rates(), {}) == []
    known = basis(Rates())
    assert known.at(0) == (None, None, None)
    assert known.hardware == ()
    assert [lacking.key for lacking in missing(Rates())] == [
        "rates.price.kind",
        "rates.carbon.kind",
        "rates.pue",
        "rates.hardware",
    ]


def test_constants(tmp_path: Path) -> None:
    text = """
    [rates]
    pue = 1.25
    pue_source = "machine room 2025"
    [rates.price]
    kind = "constant"
    per_kwh = 0.2
    source = "contract 2026"
    [rates.carbon]
    kind = "constant"
    grams_per_kwh = 344.14
    [rates.hardware."NVIDIA H100*"]
    price = 35040
    life_years = 4
    utilisation = 0.8
    [rates.hardware."NVIDIA A100*"]
    per_gpu_hour = 0.7
    """
    price, carbon = made(tmp_path, text)
    (said,) = price.source.fetch(0, 1)
    assert (said.value, said.unit, said.source) == (200_000_000, "nEUR/kWh", "contract 2026")
    assert said.quality is Quality.MEASURED
    (said,) = carbon.source.fetch(0, 1)
    assert (said.value, said.quality) == (344_140_000, Quality.ESTIMATED)
    assert said.source == "rates.carbon.grams_per_kwh"
    known = basis(rates(tmp_path, text))
    pue = known.at(0).pue
    assert pue is not None
    assert (pue.value, pue.source) == (1_250_000, "machine room 2025")
    assert [rate.nano_per_gpu_hour for rate in known.hardware] == [1_250_000_000, 700_000_000]
    assert missing(rates(tmp_path, text)) == ()


def test_the_country_table_keeps_source_and_year(tmp_path: Path) -> None:
    (feed,) = made(tmp_path, 'rates.zone = "de"\nrates.carbon.kind = "country"')
    (point,) = feed.source.fetch(0, 1)
    assert point.value == 344_140_000
    assert point.quality is Quality.DEFAULT
    assert point.source == ("Germany 2024, Our World in Data (Ember; Energy Institute), CC BY 4.0")


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("DE-LU", "for Germany, use 'DE'"),
        ("germany", "did you mean 'DE'?"),
        ("??", "two letters, like 'DE'"),
    ],
)
def test_a_country_that_is_not_in_the_table(zone: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="is not in the table of countries") as caught:
        Country(zone)
    assert hint in str(caught.value)


def test_a_schedule(tmp_path: Path) -> None:
    text = """
    [rates.price]
    kind = "schedule"
    timezone = "Europe/Berlin"
    default = 0.22
    windows = [
      { days = "mon-fri", from = "08:00", to = "20:00", per_kwh = 0.30 },
      { from = "23:00", to = "05:00", per_kwh = -0.01 },
    ]
    """
    (feed,) = made(tmp_path, text)
    monday = 1_768_172_400  # 2026-01-12T00:00+01:00
    points = feed.source.fetch(monday, monday + 86_400)
    hours = [((p.start_utc_s - monday) / 3600, p.value / 10**9) for p in points]
    assert hours == [(0, -0.01), (5, 0.22), (8, 0.3), (20, 0.22), (23, -0.01)]
    assert load(written(tmp_path, text), {}).rates.price.windows[1].from_ == "23:00"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "again.toml"
    (tmp_path / "first.toml").write_text(text)
    path.write_text(load(tmp_path / "first.toml", {}).describe())
    return path


def test_each_kind_can_be_made(tmp_path: Path) -> None:
    examples = {"file": "/x.csv", "url": "http://rates:9817"}
    zones = {Quantity.PRICE: "DE-LU", Quantity.CARBON: "GB"}
    for quantity, kinds in ((Quantity.PRICE, PRICES), (Quantity.CARBON, CARBON)):
        for kind in kinds.keys() - {"constant", "schedule"}:
            given = {"zone": zones[quantity], **examples}
            keys = [f'{key} = "{given[key]}"' for key in NEEDS[quantity][kind]]
            (feed,) = made(tmp_path, "\n".join([f'[rates.{quantity}]\nkind = "{kind}"', *keys]))
            assert feed.quantity is quantity
            assert feed.source.name
            assert feed.source.plan.every_s >= 60


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('price.kind = "constant"', 'rates.price.per_kwh: expected one, since kind = "constant"'),
        (
            "price.per_kwh = 0.2",
            'rates.price.per_kwh: kind = "none" does not use it; it belongs to kind constant',
        ),
        (
            'price = { kind = "csv", file = "/a.csv", url = "http://x" }',
            'rates.price.url: kind = "csv" does not use it; it belongs to kind energy-charts or '
            "entsoe or server",
        ),
        ('price.kind = "csv"', 'rates.price.file: expected one, since kind = "csv"'),
        ('price = { kind = "csv", file = "a" }', "rates.price.file: 'a': expected an absolute"),
        (
            'price.kind = "entsoe"',
            'rates.price.zone: expected a value here or in rates.zone, since kind = "entsoe"',
        ),
        (
            'price = { kind = "server", url = "rates:9817" }',
            "rates.price.url: expected a URL like https://host:port/path",
        ),
        (
            'price = { kind = "server", url = "https://me:pw@rates" }',
            "rates.price.url: expected a URL without user and password: put them in token_file",
        ),
        (
            'carbon = { kind = "server", url = "http://rates:x" }',
            "rates.carbon.url: expected a URL like https://host:port/path",
        ),
        (
            'price = { kind = "schedule", timezone = "Berlin", default = 1 }',
            "rates.price.timezone: 'Berlin': expected a name like Europe/Berlin that this machine",
        ),
        (
            'price = { kind = "schedule", timezone = "UTC", default = 1, windows = [{ days = '
            '"weekdays", from = "8", to = "24:01" }] }',
            "rates.price.windows[0].days: 'weekdays': expected days like \"mon-fri\"",
        ),
        ('cache_dir = "x"', "rates.cache_dir: 'x': expected an absolute path"),
        (
            'hardware."A" = {}',
            'rates.hardware."A": expected either per_gpu_hour, or price and life_years',
        ),
        (
            'hardware."A" = { per_gpu_hour = 1, price = 2 }',
            'rates.hardware."A": expected either per_gpu_hour, or price and life_years',
        ),
        (
            'hardware."A" = { price = 2, life_years = 4, residual = 3 }',
            'rates.hardware."A".residual: 3: expected at most price, 2',
        ),
        ("pue = 0.9", "rates.pue = 0.9: expected a number from 1 to 10"),
    ],
)
def test_what_is_refused_and_how(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rates(tmp_path, f"[rates]\n{text}")
    assert line in str(caught.value)


def test_all_that_is_wrong_with_a_window_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rates(
            tmp_path,
            '[rates.price]\nkind = "schedule"\ntimezone = "UTC"\ndefault = 1\n'
            'windows = [{ days = "", from = "24:00", to = "08:60" }]',
        )
    lines = [line.partition("windows[0].")[2] for line in str(caught.value).splitlines()]
    assert lines == [
        'days: \'\': expected days like "mon-fri" or "sat,sun"',
        "from: '24:00': expected a time from 00:00 to 23:59",
        "to: '08:60': expected a time from 00:00 to 24:00",
        "per_kwh: expected a price per kWh",
    ]


def test_an_unknown_bidding_zone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16-letter EIC code, or one of AT, BE"):
        made(tmp_path, '[rates.price]\nkind = "entsoe"\nzone = "DE"')


def test_days_and_times() -> None:
    assert days_of("fri-mon, Wed") == {4, 5, 6, 0, 2}
    assert minutes_of("24:00") == 1440
