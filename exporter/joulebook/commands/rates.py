"""Implement `joulebook rates`: the rates in force, their sources, and missing settings."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from joulebook import log
from joulebook.commands.shared.options import Options, argument, command, option
from joulebook.commands.shared.stopping import stop_asked
from joulebook.commands.shared.text import NOTHING, UNKNOWN, moment, seconds
from joulebook.config import Config, load
from joulebook.config.rates import missing
from joulebook.core.money.rates import NANO, PPM, UG_PER_G, Point
from joulebook.core.sanitize import one_line
from joulebook.lab.rates_service import RatesPages, RatesServer
from joulebook.rates.build import make_poller
from joulebook.rates.poller import FeedHealth, Poller
from joulebook.terminal import Column, Screen

logger = logging.getLogger(__name__)


def main(args: Options) -> int:
    """Show the rates once, or serve them to other nodes until SIGTERM."""
    config = load(args.config, os.environ)
    if args.action == "serve":
        return _serve(config, args.listen)
    log.setup("error")  # The errors of feeds are shown below.
    # Read-only: the daemon could not replace files that root wrote.
    poller = make_poller(config, os.environ, read_only=True)
    # The daemon's cache shows what it uses. Feeds are only queried if nothing is cached: this
    # command may run on every node of a cluster at once.
    now = poller.current.at(int(time.time()))
    known = now._asdict()
    if args.ask or any(known[row.quantity] is None for row in poller.health()):
        poller.ask_all()
    if args.json:
        Screen().say(json.dumps(_as_json(config, poller), indent=2))
    else:
        _show(config, poller, Screen())
    return 0


def _serve(config: Config, listen: str) -> int:
    log.setup(config.log.level, config.log.format)
    stop = stop_asked()
    poller = make_poller(config, os.environ)
    web_config = Path(config.server.web_config) if config.server.web_config else None
    server = RatesServer(listen, RatesPages(poller), web_config)
    for lacking in missing(config.rates):
        if lacking.key in {"rates.price.kind", "rates.carbon.kind"}:
            logger.warning("%s is not set: no %s for the nodes", lacking.key, lacking.without)
    poller.start()
    server.start()
    logger.info("serving rates on port %d", server.port)
    stop.wait()
    server.stop()
    poller.stop()
    return 0


def _figures(config: Config, poller: Poller) -> Iterator[tuple[str, Point | None, int, str]]:
    """Yield each rate: name, point in force, integer units per displayed unit, and that unit."""
    now = poller.current.at(int(time.time()))
    yield "price", now.price, NANO, f"{config.rates.currency}/kWh"
    yield "carbon", now.carbon, UG_PER_G, "g CO2e/kWh"
    yield "pue", now.pue, PPM, "kWh/kWh"


def _show(config: Config, poller: Poller, screen: Screen) -> None:
    health = {str(row.quantity): row for row in poller.health()}
    rows = []
    for name, point, per, unit in _figures(config, poller):
        value = UNKNOWN if point is None else f"{_figure(point.value, per)} {unit}"
        quality = NOTHING if point is None else str(point.quality)
        source = NOTHING if point is None else one_line(point.source)
        rows.append([name, value, quality, _since(point), _age(health.get(name)), source])
    for gpu in poller.current.hardware:
        value = f"{_figure(gpu.nano_per_gpu_hour, NANO)} {config.rates.currency}/GPU-hour"
        rows.append([one_line(gpu.pattern), value, "measured", NOTHING, NOTHING, gpu.source])
    columns = [
        Column("rate"),
        Column("value"),
        Column("quality"),
        Column("since", spare=2),
        Column("asked"),
        Column("source", name=True),
    ]
    for line in screen.table(columns, rows, width=screen.width):
        screen.say(line)
    for row in health.values():
        if row.state not in {"ok", "new"}:
            screen.say(screen.paint(f"\n{row.quantity}: {one_line(row.message)}", "yellow"))
    for lacking in missing(config.rates):
        screen.say(f"\n{lacking.key} is not set: no {lacking.without}")


def _as_json(config: Config, poller: Poller) -> dict[str, Any]:
    now_s = time.time()
    figures = {
        name: None
        if point is None
        else {
            "value": point.value / per,
            "unit": unit,
            "quality": str(point.quality),
            "source": point.source,
            "start_utc_s": point.start_utc_s,
            "end_utc_s": point.end_utc_s,
        }
        for name, point, per, unit in _figures(config, poller)
    }
    return {
        "currency": config.rates.currency,
        "zone": config.rates.zone,
        **figures,
        "hardware": {
            gpu.pattern: {"per_gpu_hour": gpu.nano_per_gpu_hour / NANO, "source": gpu.source}
            for gpu in poller.current.hardware
        },
        "feeds": [
            {
                "quantity": str(row.quantity),
                "source": row.source,
                "state": row.state,
                "age_s": row.age_s(now_s),
                "message": row.message,
                "errors": dict(row.errors),
            }
            for row in poller.health()
        ],
        "missing": {lacking.key: lacking.without for lacking in missing(config.rates)},
    }


def _figure(value: int, per: int) -> str:
    return f"{value / per:,.6f}".rstrip("0").rstrip(".")


def _since(point: Point | None) -> str:
    return NOTHING if point is None or point.start_utc_s == 0 else moment(point.start_utc_s)


def _age(row: FeedHealth | None) -> str:
    age_s = None if row is None else row.age_s(time.time())
    return NOTHING if age_s is None else f"{seconds(age_s)} ago"


@command()
@argument(
    "action",
    type=click.Choice(["show", "serve"]),
    default="show",
    help='Show the rates (default), or serve them to nodes with rates.*.kind = "server".',
)
@option("--ask", is_flag=True, help="Query the sources now instead of the cache.")
@option("--json", is_flag=True, help="Print one JSON object instead of text.")
@option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:9817",
    show_default=True,
    help="Address to serve on.",
)
def rates(options: Options) -> int:
    """Show the current price and carbon intensity of a kWh, with their sources."""
    return main(options)
