"""What last month's advice would have saved, as gauges of the lab server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from joulebook.core.money.rates import NANO, UG_PER_G
from joulebook.errors import LedgerError
from joulebook.lab.advice.advise import KnownToCome, by_kind, of_month
from joulebook.lab.advice.model import AdviceKind, Saving
from joulebook.lab.collected import months
from joulebook.lab.collected.database import Database
from joulebook.log import LogOnce
from joulebook.metrics.collector import Family
from joulebook.metrics.metric import Kind, Metric, Stability
from joulebook.units import UJ_PER_J

logger = logging.getLogger(__name__)
_once = LogOnce(logger)

_EVERY_S = 6 * 3600.0
"""So often it is computed again: late pages and corrections change it."""
_AGAIN_S = 300.0
"""So soon after the ledger could not be read."""


def _gauge(name: str, help: str, unit: str = "", *more: str) -> Metric:
    labels = ("cluster", "account", "kind", *more)
    return Metric(
        f"joulebook_advice_{name}", Kind.GAUGE, help, unit, labels,
        stability=Stability.BETA, bare=True,
    )  # fmt: skip


_ENERGY = _gauge(
    "energy_joules",
    "Energy that last month's advice would have saved, by `kind` of advice.",
    "joules",
)
_COST = _gauge(
    "cost",
    "Money that last month's advice would have saved, electricity and hardware. Below 0: a lower "
    "power limit costs more time of the hardware than it saves.",
    "",
    "currency",
)
_CO2E = _gauge("co2e_grams", "CO2e that last month's advice would have saved.", "grams")

_COMPUTED = Metric(
    "joulebook_advice_computed_timestamp_seconds", Kind.GAUGE,
    "Unix time at which last month's advice was computed last.", "seconds",
    stability=Stability.BETA, bare=True,
)  # fmt: skip

ADVICE: tuple[Metric, ...] = (_ENERGY, _COST, _CO2E, _COMPUTED)
"""Every metric of advice, in the order of exposition."""


class AdviceGauges:
    """Computes the last month's advice now and then, so that a scrape only shows it."""

    def __init__(
        self,
        connect: Callable[[], Database],
        to_come: Callable[[], KnownToCome] = KnownToCome,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._connect = connect
        self._to_come = to_come
        self._now_s = now_s
        self._savings: dict[tuple[str, str, AdviceKind], Saving] = {}
        self._computed_s = 0

    def run(self, stop: threading.Event) -> None:
        """Compute until told to stop."""
        while not stop.is_set():
            try:
                self.once()
                _once.recovered("advice", "last month's advice is computed again")
                wait_s = _EVERY_S
            except LedgerError as error:
                _once.failed("advice", "last month's advice is not computed: %s", error)
                wait_s = _AGAIN_S
            except Exception:
                _once.fault("last month's advice is not computed")
                wait_s = _AGAIN_S
            stop.wait(wait_s)

    def once(self) -> None:
        """Compute it. Raises `LedgerError`."""
        now_s = int(self._now_s())
        month = months.before(months.month_of(now_s))
        with self._connect() as database, database.transaction(writes=False):
            self._savings = by_kind(of_month(database, month, now_s, to_come=self._to_come()))
        self._computed_s = now_s

    def families(self) -> list[Family]:
        """Return the gauges as of the last time."""
        savings = [((*of, str(kind)), each) for (*of, kind), each in self._savings.items()]
        return [
            Family(
                _ENERGY,
                [(of, each.energy_uj / UJ_PER_J) for of, each in savings if each.energy_uj],
            ),
            Family(
                _COST,
                [
                    ((*of, currency), nano / NANO)
                    for of, each in savings
                    for currency, nano in each.money.items()
                ],
            ),
            Family(
                _CO2E,
                [(of, each.co2e_ug / UG_PER_G) for of, each in savings if each.co2e_ug is not None],
            ),
            Family(_COMPUTED, [((), self._computed_s)] if self._computed_s else []),
        ]
