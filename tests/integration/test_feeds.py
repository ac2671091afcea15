"""What each feed says over real HTTP, and what of it is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.integration.feed_stub import HOUR, KEY, T0, Stub, source

from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.errors import FeedEmpty, FeedError, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.contract import RateSource

EM_HISTORY, EM_LATEST = "/v3/carbon-intensity/history", "/v3/carbon-intensity/latest"
NESO = "/intensity/2026-01-01T00:00Z/2026-01-01T02:00Z"


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub().running() as running:
        yield running


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web(timeout_s=0.5, deadline_s=1.0, max_bytes=2**20)
    yield made
    made.close()


Make = Callable[[str], RateSource]


@pytest.fixture
def make(stub: Stub, web: Web) -> Make:
    """A source by its quantity and kind."""
    return lambda name: source(name, stub.url, web)


def fetched(source: RateSource, hours: int = 2) -> list[tuple[float, float, str]]:
    """Start in hours, value in units, quality of each point."""
    per = NANO if source.fetch(T0, T0 + hours * HOUR)[0].unit.startswith("n") else UG_PER_G
    return [
        ((p.start_utc_s - T0) / HOUR, p.value / per, str(p.quality))
        for p in source.fetch(T0, T0 + hours * HOUR)
    ]


# What each feed says when all is well


def test_electricity_maps(stub: Stub, make: Make) -> None:
    entries: list[dict[str, object]] = [
        {
            "zone": "DE",
            "carbonIntensity": 302,
            "datetime": "2026-01-01T00:00:00.000Z",
            "updatedAt": "2026-01-01T01:30:00.000Z",
            "emissionFactorType": "lifecycle",
            "isEstimated": False,
            "estimationMethod": None,
        },
        {"zone": "DE", "carbonIntensity": None, "datetime": "2026-01-01T01:00:00.000Z"},
        {
            "zone": "DE",
            "carbonIntensity": 280.5,
            "datetime": "2026-01-01T02:00:00.000Z",
            "emissionFactorType": "lifecycle",
            "isEstimated": True,
        },
    ]
    stub.json(EM_HISTORY, {"zone": "DE", "history": entries})
    stub.json(EM_LATEST, {**entries[2], "datetime": "2026-01-01T03:00:00.000Z"})
    source = make("carbon/electricity-maps")
    assert fetched(source) == [(0, 302, "measured"), (2, 280.5, "estimated")]
    assert fetched(source, 4)[-1] == (3, 280.5, "estimated")
    (path, headers), *_ = stub.requests
    assert path == f"{EM_HISTORY}?zone=DE"
    assert headers["auth-token"] == KEY
    assert headers["user-agent"].startswith("joulebook/")
    point = source.fetch(T0, T0 + HOUR)[0]
    assert (point.source, point.end_utc_s) == ("Electricity Maps DE, lifecycle", T0 + HOUR)


def test_neso(stub: Stub, make: Make) -> None:
    def half(begin: str, end: str, **said: float | None) -> dict[str, object]:
        return {"from": f"2026-01-01T{begin}Z", "to": f"2026-01-01T{end}Z", "intensity": said}

    stub.json(
        NESO,
        {
            "data": [
                half("00:00", "00:30", forecast=120, actual=118),
                half("00:30", "01:00", forecast=121, actual=None),
                half("01:00", "01:30", forecast=None, actual=None),
                half("01:30", "02:00", forecast=110),
            ]
        },
    )
    assert fetched(make("carbon/neso")) == [
        (0, 118, "measured"),
        (0.5, 121, "forecast"),
        (1.5, 110, "forecast"),
    ]


def test_energy_charts_price_with_nulls_and_below_zero(stub: Stub, make: Make) -> None:
    stub.json(
        "/price",
        {
            "license_info": "CC BY 4.0",
            "unix_seconds": [T0, T0 + 900, T0 + 1800],
            "price": [91.53, None, -17.31],
            "unit": "EUR / MWh",
            "deprecated": False,
        },
    )
    assert fetched(make("price/energy-charts")) == [
        (0, 0.09153, "measured"),
        (0.5, -0.01731, "measured"),
    ]
    assert stub.requests[0][0] == f"/price?bzn=DE-LU&start={T0}&end={T0 + 2 * HOUR}"
    last = make("price/energy-charts").fetch(T0, T0 + HOUR)[-1]
    assert last.end_utc_s == T0 + 2700


def test_energy_charts_carbon_with_a_forecast(stub: Stub, make: Make) -> None:
    stub.json(
        "/co2eq",
        {
            "unix_seconds": [T0, T0 + 900, T0 + 1800],
            "co2eq": [410.2, None, None],
            "co2eq_forecast": [400, 390, None],
        },
    )
    assert fetched(make("carbon/energy-charts")) == [
        (0, 410.2, "measured"),
        (0.25, 390, "forecast"),
    ]
    assert stub.requests[0][0].startswith("/co2eq?country=de&")


A44 = """<?xml version="1.0" encoding="utf-8"?>
<Publication_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3">
  <type>A44</type>{series}
</Publication_MarketDocument>"""
SERIES = """
  <TimeSeries>
    <contract_MarketAgreement.type>{contract}</contract_MarketAgreement.type>
    <currency_Unit.name>{currency}</currency_Unit.name>
    <price_Measure_Unit.name>{measure}</price_Measure_Unit.name>
    <classificationSequence_AttributeInstanceComponent.position>{rank}
    </classificationSequence_AttributeInstanceComponent.position>
    <Period>
      <timeInterval><start>2026-01-01T00:00Z</start><end>2026-01-01T04:00Z</end></timeInterval>
      <resolution>{resolution}</resolution>{points}
    </Period>
  </TimeSeries>"""


def series(points: dict[int, object], **other: object) -> str:
    inner = "".join(
        f"<Point><position>{n}</position><price.amount>{price}</price.amount></Point>"
        for n, price in points.items()
    )
    said = {
        "contract": "A01",
        "currency": "EUR",
        "measure": "MWH",
        "rank": 1,
        "resolution": "PT60M",
        "points": inner,
    }
    return SERIES.format(**{**said, **other})


def a44(*all_series: str) -> bytes:
    return A44.format(series="".join(all_series)).encode()


def test_entsoe_repeats_the_last_price_where_positions_are_missing(stub: Stub, make: Make) -> None:
    stub.bodies["/api"] = a44(series({1: 80.01, 3: -5}))
    assert fetched(make("price/entsoe")) == [(0, 0.08001, "measured"), (2, -0.005, "measured")]
    points = make("price/entsoe").fetch(T0, T0 + HOUR)
    assert [p.end_utc_s for p in points] == [T0 + 2 * HOUR, T0 + 4 * HOUR]
    asked = stub.requests[0][0]
    assert asked == (
        f"/api?securityToken={KEY}&documentType=A44&in_Domain=10Y1001A1001A82H"
        "&out_Domain=10Y1001A1001A82H&periodStart=202601010000&periodEnd=202601010200"
    )


def test_entsoe_takes_the_coupled_auction_and_the_finer_step(stub: Stub, make: Make) -> None:
    stub.bodies["/api"] = a44(
        series({1: 50}, rank=1, resolution="PT15M"),
        series({1: 10, 2: 20}, rank=1),
        series({1: 99}, rank=2),
        series({1: 98}, contract="A07"),
    )
    assert fetched(make("price/entsoe")) == [(0, 0.05, "measured")]


def acknowledged(code: str, text: str) -> bytes:
    return (
        '<Acknowledgement_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-1:ack:7:0">'
        f"<Reason><code>{code}</code><text>{text}</text></Reason></Acknowledgement_MarketDocument>"
    ).encode()


def test_entsoe_acknowledgements(stub: Stub, make: Make) -> None:
    stub.bodies["/api"] = acknowledged("999", "No matching data found")
    with pytest.raises(FeedEmpty, match="No matching data found"):
        make("price/entsoe").fetch(T0, T0 + HOUR)
    stub.bodies["/api"] = acknowledged("401", f"securityToken={KEY} is wrong")
    with pytest.raises(FeedWrong, match=r"securityToken=\*\*\* is wrong") as caught:
        make("price/entsoe").fetch(T0, T0 + HOUR)
    assert caught.value.reason == "refused"


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Publication_MarketDocument>&b;</Publication_MarketDocument>"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (BOMB, "XML with a document type"),
        (b"<a>" * 10_000, "nested too deep"),
        (b"<a/>", "unexpected XML: <a>"),
        (b"{}", "not XML"),
        (b"", "not XML"),
        (a44(series({1: 1}))[:-40], "not XML"),
        (a44(series({5: 1})), "position 5 of 4"),
        (a44(series({0: 1})), "position 0 of 4"),
        (a44(series({1: "x"})), "is not a number"),
        (a44(series({1: 1}, resolution="P1Y")), "resolution 'P1Y'"),
        (a44(series({1: 1}, resolution="PT0M")), "resolution 'PT0M'"),
        (a44(series({1: 1}, rank="x")), "invalid literal"),
        (a44(series({1: 1}, measure="MAW")), "unit is 'EUR/MAW'"),
        (a44(series({1: 1}, currency="PLN")), "prices are in PLN, but rates.currency is EUR"),
        (a44().replace(b"Publication", b"Other"), "<Other_MarketDocument>"),
    ],
)
def test_entsoe_documents_that_are_none(stub: Stub, make: Make, body: bytes, said: str) -> None:
    stub.bodies["/api"] = body
    with pytest.raises(FeedWrong) as caught:
        make("price/entsoe").fetch(T0, T0 + HOUR)
    assert said in str(caught.value)


# What is wrong in the answer of a feed


@pytest.mark.parametrize(
    ("feed", "path", "body", "reason"),
    [
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0], "price": [1], "unit": "EUR / GJ"},
            "unit",
        ),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0], "price": [1], "unit": "CHF / MWh"},
            "currency",
        ),
        ("price/energy-charts", "/price", {"unix_seconds": [T0], "price": [1]}, "garbage"),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0], "price": ["1"], "unit": "EUR/MWh"},
            "garbage",
        ),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0], "price": [1, 2], "unit": "EUR/MWh"},
            "garbage",
        ),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0, T0], "price": [1, 2], "unit": "EUR/MWh"},
            "garbage",
        ),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [], "price": [], "unit": "EUR/MWh"},
            "no_data",
        ),
        (
            "price/energy-charts",
            "/price",
            {"unix_seconds": [T0], "price": [None], "unit": "EUR/MWh"},
            "no_data",
        ),
        ("carbon/energy-charts", "/co2eq", {"unix_seconds": [T0], "co2eq": [None]}, "no_data"),
        (
            "carbon/energy-charts",
            "/co2eq",
            {"unix_seconds": [T0], "co2eq": [1], "co2eq_forecast": [1, 2]},
            "garbage",
        ),
        ("carbon/energy-charts", "/co2eq", [], "garbage"),
        ("carbon/neso", NESO, {"data": []}, "no_data"),
        ("carbon/neso", NESO, {"error": {"code": "400 Bad Request"}}, "garbage"),
        (
            "carbon/neso",
            NESO,
            {"data": [{"from": "noon", "to": "one", "intensity": {"actual": 1}}]},
            "garbage",
        ),
        ("carbon/electricity-maps", EM_HISTORY, {"zone": "FR", "history": []}, "garbage"),
        (
            "carbon/electricity-maps",
            EM_HISTORY,
            {"zone": "DE", "history": [{"carbonIntensity": 1, "datetime": "2026-01-01T00:00"}]},
            "garbage",
        ),
        ("price/server", "/v1/rates", {"v": 2, "currency": "EUR", "zone": ""}, "garbage"),
        ("price/server", "/v1/rates", {"v": 1, "currency": "EUR", "zone": ""}, "no_data"),
        (
            "price/server",
            "/v1/rates",
            {"v": 1, "currency": "USD", "zone": "", "price": {"source": "x", "points": []}},
            "currency",
        ),
        (
            "carbon/server",
            "/v1/rates",
            {"v": 1, "currency": "USD", "zone": "", "carbon": {"source": "x", "points": []}},
            "no_data",
        ),
    ],
)
def test_answers_that_cannot_be_used(
    stub: Stub, make: Make, feed: str, path: str, body: object, reason: str
) -> None:
    stub.json(path, body)
    with pytest.raises(FeedError) as caught:
        make(feed).fetch(T0, T0 + 2 * HOUR)
    assert caught.value.reason == reason
