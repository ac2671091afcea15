"""Served models in a statement: a row for each model and month."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from joulebook.core.money.amounts import NOTHING, Charge, Charges, Item
from joulebook.core.money.rates import NANO
from joulebook.core.report.rollup import net
from joulebook.core.report.serving import Produced, ServedMonth
from joulebook.units import UJ_PER_J, kwh_from_uj

_CO2E = Charge(Item.CO2E)


class PerThousandRow(Struct, frozen=True):
    """What 1,000 tokens or requests took, idle time apart: joules, money, and grams of CO2e."""

    joules: float
    cost: dict[str, float]
    co2e_g: float | None


class ServedRow(Struct, frozen=True):
    """A model that was served in a month, in the quarter hours whose tokens and energy are known.

    Energy is that of the machines (without PUE). `idle` is what its servers took while they
    produced nothing: it is in no figure per 1,000. A count that its server does not give is null,
    and so is what is per 1,000 of it. An empty `model`: its server states none.
    """

    month: str
    model: str
    account: str
    user: str
    experiment: str
    prompt_tokens: int | None
    output_tokens: int | None
    requests: int | None
    energy_kwh: float
    idle_energy_kwh: float
    cost: dict[str, float]
    idle_cost: dict[str, float]
    co2e_kg: float | None
    idle_co2e_kg: float | None
    per_1000_prompt_tokens: PerThousandRow | None
    per_1000_output_tokens: PerThousandRow | None
    per_1000_requests: PerThousandRow | None


def served_rows(found: Iterable[ServedMonth]) -> list[ServedRow]:
    """Return the rows of a statement."""
    return [_row(each) for each in found]


def _row(found: ServedMonth) -> ServedRow:
    model = found.model
    co2e = model.charges.get(_CO2E)
    per = {kind: _per_thousand(found, kind) for kind in Produced}
    return ServedRow(
        found.month, model.name, model.account, model.person, model.experiment,
        model.counts.get(Produced.PROMPT), model.counts.get(Produced.OUTPUT),
        model.counts.get(Produced.REQUESTS),
        kwh_from_uj(model.active_uj), kwh_from_uj(sum(model.idle_uj.values())),
        _money(model.charges), _money(model.idle_charges),
        None if co2e is None else co2e.floor / NANO,
        None if co2e is None else model.idle_charges.get(_CO2E, NOTHING).floor / NANO,
        per[Produced.PROMPT], per[Produced.OUTPUT], per[Produced.REQUESTS],
    )  # fmt: skip


def _per_thousand(found: ServedMonth, kind: Produced) -> PerThousandRow | None:
    count, model = found.model.counts.get(kind), found.model
    if not count:
        return None
    co2e = model.charges.get(_CO2E)
    return PerThousandRow(
        model.active_uj / UJ_PER_J * 1000 / count,
        {currency: cost * 1000 / count for currency, cost in _money(model.charges).items()},
        None if co2e is None else co2e.floor / NANO * 1000 * 1000 / count,
    )


def _money(charges: Charges) -> dict[str, float]:
    return {currency: amount.floor / NANO for currency, amount in sorted(net(charges).items())}
