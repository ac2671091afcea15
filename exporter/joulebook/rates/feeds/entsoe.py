"""ENTSO-E's Transparency Platform: day-ahead prices of bidding zones, with a key.

Document type A44 of https://transparencyplatform.zendesk.com (RESTful API): XML, prices per MWh at
numbered positions of a period; a position that is left out has the price of the one before it.
`Acknowledgement_MarketDocument` is how it says that it has nothing, or takes offence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from joulebook.core.money.rates import Point, Quality, nano_per_kwh, overlay
from joulebook.core.sanitize import one_line
from joulebook.errors import ConfigError, FeedEmpty, FeedWrong
from joulebook.http_client import Web
from joulebook.rates.contract import DAY_S, HOUR_S, ApiKey, Plan, price_nano, utc_s

URL = "https://web-api.tp.entsoe.eu"

ZONES = {
    "AT": "10YAT-APG------L",
    "BE": "10YBE----------2",
    "BG": "10YCA-BULGARIA-R",
    "CH": "10YCH-SWISSGRIDZ",
    "CZ": "10YCZ-CEPS-----N",
    "DE-LU": "10Y1001A1001A82H",
    "DK1": "10YDK-1--------W",
    "DK2": "10YDK-2--------M",
    "EE": "10Y1001A1001A39I",
    "ES": "10YES-REE------0",
    "FI": "10YFI-1--------U",
    "FR": "10YFR-RTE------C",
    "GR": "10YGR-HTSO-----Y",
    "HR": "10YHR-HEP------M",
    "HU": "10YHU-MAVIR----U",
    "IE-SEM": "10Y1001A1001A59C",
    "IT-NORTH": "10Y1001A1001A73I",
    "LT": "10YLT-1001A0008Q",
    "LV": "10YLV-1001A00074",
    "NL": "10YNL----------L",
    "NO1": "10YNO-1--------2",
    "NO2": "10YNO-2--------T",
    "NO3": "10YNO-3--------J",
    "NO4": "10YNO-4--------9",
    "NO5": "10Y1001A1001A48H",
    "PL": "10YPL-AREA-----S",
    "PT": "10YPT-REN------W",
    "RO": "10YRO-TEL------P",
    "SE1": "10Y1001A1001A44P",
    "SE2": "10Y1001A1001A45N",
    "SE3": "10Y1001A1001A46L",
    "SE4": "10Y1001A1001A47J",
    "SI": "10YSI-ELES-----O",
    "SK": "10YSK-SEPS-----K",
}
"""Short names of bidding zones. Any other zone is written as its EIC code."""

_NOTHING_FOUND = "999"
_DAY_AHEAD = "A01"
_MAX_DEPTH = 12


class _Series(NamedTuple):
    rank: int
    """Of several auctions for one hour, the coupled one comes first."""
    step_s: int
    points: tuple[Point, ...]


class Entsoe:
    """Day-ahead prices of one zone: a name of `ZONES` or an EIC code."""

    def __init__(
        self,
        web: Web,
        zone: str,
        currency: str,
        key: ApiKey,
        url: str = "",
        every_s: float = HOUR_S,
    ) -> None:
        """Raises `ConfigError` if there is no such zone."""
        code = ZONES.get(zone.upper(), zone)
        if not re.fullmatch(r"[0-9A-Z-]{16}", code):
            raise ConfigError(
                f"rates.price.zone: {zone!r}: expected a 16-letter EIC code, or one of "
                f"{', '.join(ZONES)}"
            )
        self.name = f"ENTSO-E {zone}"
        self.plan = Plan(every_s=every_s, ahead_s=2 * DAY_S)
        self._web = web
        self._code = code
        self._currency = currency
        self._key = key
        self._url = url or URL

    def fetch(self, t0_s: int, t1_s: int) -> tuple[Point, ...]:
        """All day-ahead prices of that time; of several for one hour, the coupled auction's."""
        key = self._key.read()
        asked = {
            "securityToken": key,
            "documentType": "A44",
            "in_Domain": self._code,
            "out_Domain": self._code,
            "periodStart": _stamp(t0_s),
            "periodEnd": _stamp(t1_s + HOUR_S - 1),
        }
        root = _tree(self._web.get(f"{self._url}/api", asked, secret=True), self.name)
        if root.tag == "Acknowledgement_MarketDocument":
            # What it takes offence at may be our own question, key and all.
            text = one_line(root.findtext("Reason/text", "").replace(key, "***"))
            if root.findtext("Reason/code") == _NOTHING_FOUND:
                raise FeedEmpty(f"{self.name}: {text}")
            raise FeedWrong(f"{self.name}: {text}", reason="refused")
        if root.tag != "Publication_MarketDocument":
            raise self._garbage(f"<{one_line(root.tag, 40)}>")
        points: tuple[Point, ...] = ()
        try:
            found = list(self._series(root))
        except ValueError as error:
            raise self._garbage(one_line(str(error), 100)) from None
        # The best last, over all others; of equals the finer one.
        for series in sorted(found, key=lambda s: (-s.rank, -s.step_s)):
            points = overlay(points, series.points)
        if not points:
            raise FeedEmpty(f"{self.name}: no price for that time")
        return points

    def _series(self, root: Element) -> Iterator[_Series]:
        for series in root.iterfind("TimeSeries"):
            if series.findtext("contract_MarketAgreement.type", _DAY_AHEAD) != _DAY_AHEAD:
                continue
            measure = series.findtext("price_Measure_Unit.name", "?").replace("MWH", "MWh")
            unit = f"{series.findtext('currency_Unit.name', '?')}/{measure}"
            place = "classificationSequence_AttributeInstanceComponent.position"
            rank = int(series.findtext(place, "1"))
            for period in series.iterfind("Period"):
                step_s = _resolution_s(period.findtext("resolution", ""))
                yield _Series(rank, step_s, tuple(self._period(period, step_s, unit)))

    def _period(self, period: Element, step_s: int, unit: str) -> Iterator[Point]:
        begin = utc_s(period.findtext("timeInterval/start", ""))
        end = utc_s(period.findtext("timeInterval/end", ""))
        count = (end - begin) // step_s
        figures: dict[int, int] = {}
        for point in period.iterfind("Point"):
            position = int(point.findtext("position", ""))
            if not 1 <= position <= count:
                raise ValueError(f"position {position} of {count}")
            said = point.findtext("price.amount", "").strip()
            figures[position] = price_nano(said, unit, self._currency, self.name)
        positions = sorted(figures)
        # Up to the next position that is there: what is left out repeats the last price.
        for position, following in zip(positions, [*positions[1:], count + 1], strict=True):
            yield Point(
                begin + (position - 1) * step_s,
                figures[position],
                nano_per_kwh(self._currency),
                f"{self.name} day-ahead",
                Quality.MEASURED,
                begin + (following - 1) * step_s,
            )

    def _garbage(self, what: str) -> FeedWrong:
        return FeedWrong(f"{self.name}: unexpected XML: {what}", reason="garbage")


def _stamp(t_s: int) -> str:
    return datetime.fromtimestamp(t_s - t_s % HOUR_S, UTC).strftime("%Y%m%d%H%M")


def _resolution_s(text: str) -> int:
    match = re.fullmatch(r"PT(\d{1,3})([MH])", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"resolution {text!r:.20}")
    return int(match[1]) * (60 if match[2] == "M" else HOUR_S)


def _tree(body: bytes, name: str) -> Element:
    """Return the document, tags without their namespace (its version is in there, and changes).

    A document type is refused: entities that unfold without end are declared in one.
    """
    builder = TreeBuilder()
    depth = 0

    def refuse(*_: object) -> None:
        raise FeedWrong(f"{name}: XML with a document type", reason="garbage")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise FeedWrong(f"{name}: XML nested too deep", reason="garbage")
        builder.start(tag.rpartition(" ")[2], attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag.rpartition(" ")[2])

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise FeedWrong(f"{name}: not XML: {error}", reason="garbage") from None
    return builder.close()
