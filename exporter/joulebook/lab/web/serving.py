"""What serving a model cost per token: a page, and the same in the API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Response

from joulebook.core import units_text
from joulebook.core.evidence import Amount
from joulebook.core.money.amounts import Charges, Exact, total
from joulebook.core.report.rollup import net
from joulebook.core.report.serving import Produced, ServedModel
from joulebook.core.units_text import ENERGY, in_column
from joulebook.lab.collected import months
from joulebook.lab.figures import CO2E, Figures, co2e_column, figures, money_columns
from joulebook.lab.web.api import MONTH, Known, TheLab
from joulebook.lab.web.html import page
from joulebook.lab.web.lists import After, Format, Limit, listed
from joulebook.lab.web.pages import MOST_ROWS
from joulebook.lab.web.present import TableColumn

router = APIRouter()

_NAMES = {Produced.PROMPT: "prompt", Produced.OUTPUT: "output", Produced.REQUESTS: "request"}
UNNAMED = "(not stated)"
AnyMonth = Annotated[str, Query(pattern=rf"^({MONTH})?$")]


@dataclass(frozen=True)
class PerThousand:
    """What 1,000 of something took, idle time apart; `null`: not known."""

    energy_uj: int
    cost: dict[str, str]
    co2e_mg: str | None


@dataclass(frozen=True)
class ServedOut:
    """A model that was served in a month, in the quarter hours whose tokens and energy are known.

    Attributes:
        model: Its name; empty: its server states none.
        produced: Tokens by kind (`prompt`, `output`) and `requests`; what is not counted is absent.
        active: What its work took. GPU time is not divided among models, so it is 0 here.
        idle: What its servers took while they produced nothing.
        per_1000: `active` per 1,000 of each kind.
        phases_uj_per_1000: The same of servers that only read prompts (`prompt`), or only wrote
            output, where their energy is measured apart.

    """

    account: str
    user: str
    experiment: str
    model: str
    produced: dict[str, int]
    active: Figures
    idle: Figures
    per_1000: dict[str, PerThousand]
    phases_uj_per_1000: dict[str, int]


@router.get("/api/v1/serving", response_model=list[ServedOut])
def list_served(
    lab: TheLab,
    viewer: Known,
    month: AnyMonth = "",
    limit: Limit = 100,
    after: After = "",
    format: Format = "json",
) -> Response:
    """List the models that the viewer's workloads served in a month (default: this one)."""
    with lab.view(viewer) as view:
        found = [_out(each) for each in view.serving(_month(lab, month))]
    return listed(found, limit, after, format, "account", "user", "experiment", "model")


@router.get("/serving", include_in_schema=False)
def serving(lab: TheLab, viewer: Known, month: AnyMonth = "") -> Response:
    """Show the models of a month: tokens, and what they cost."""
    shown = _month(lab, month)
    with lab.view(viewer) as view:
        found = view.serving(shown)
    found.sort(key=lambda each: -each.active_uj - sum(each.idle_uj.values()))
    return page(
        "serving.html",
        viewer,
        month=months.shown(shown),
        earlier=months.shown(months.before(shown)),
        later=months.shown(months.after(shown)) if shown < _month(lab, "") else "",
        table=columns(found[:MOST_ROWS]),
        phases=_phases(found[:MOST_ROWS]),
        rest=max(len(found) - MOST_ROWS, 0),
        total=_total(found),
        reads=lab.config.serving.reads,
    )


def _month(lab: TheLab, asked: str) -> int:
    return months.parsed(asked) if asked else months.month_of(int(lab.now_s()))


def columns(models: Sequence[ServedModel]) -> list[TableColumn]:
    """Return a row for each model, each column in one unit."""
    unit, active = in_column([each.active_uj for each in models], ENERGY)
    idle_unit, idle = in_column([sum(each.idle_uj.values()) for each in models], ENERGY)
    made = [
        TableColumn("model", [each.name or UNNAMED for each in models], figures=False),
        TableColumn("experiment", [each.experiment for each in models], figures=False),
        TableColumn("account", [each.account for each in models], figures=False),
        TableColumn("user", [each.person for each in models], figures=False),
        *_counted(models),
        TableColumn(f"energy ({unit})", active),
        TableColumn(f"idle ({idle_unit})", idle),
    ]
    for kind in Produced:
        if any(each.counts.get(kind) for each in models):
            made += _rates(models, kind)
    idle_costs = money_columns("idle cost", [net(each.idle_charges) for each in models])
    made += [TableColumn(*each) for each in idle_costs]
    return [column for column in made if any(cell not in {"", "-"} for cell in column.cells)]


def _counted(models: Sequence[ServedModel]) -> Iterator[TableColumn]:
    for kind in Produced:
        title = "requests" if kind is Produced.REQUESTS else f"{kind} tokens"
        counts = [each.counts.get(kind) for each in models]
        yield TableColumn(title, ["-" if n is None else f"{n:,}" for n in counts])


def _rates(models: Sequence[ServedModel], kind: Produced) -> Iterator[TableColumn]:
    """Yield energy, cost and CO2e per 1,000 tokens or requests."""
    per = f"per 1,000 {_NAMES[kind]}{'s' if kind is Produced.REQUESTS else ' tokens'}"
    unit, cells = in_column([each.per_thousand(each.active_uj, kind) for each in models], ENERGY)
    yield TableColumn(f"{unit} {per}", cells)
    costs = [
        {
            currency: Exact.of(each.per_thousand(amount.atoms, kind) or 0)
            for currency, amount in net(each.charges).items()
            if each.counts.get(kind)
        }
        for each in models
    ]
    for title, money in money_columns("cost", costs):
        yield TableColumn(f"{title} {per}", money)
    grams = [
        each.per_thousand(each.charges[CO2E].floor, kind) if CO2E in each.charges else None
        for each in models
    ]
    title, cells = co2e_column("CO2e", grams)
    yield TableColumn(f"{title} {per}", cells)


def _phases(models: Sequence[ServedModel]) -> list[TableColumn]:
    """Return energy by phase of models with servers that do only one of both."""
    apart = [each for each in models if each.phases]
    made = [TableColumn("model", [each.name or UNNAMED for each in apart], figures=False)]
    for kind in (Produced.PROMPT, Produced.OUTPUT):
        unit, cells = in_column([_of_phase(each, kind) for each in apart], ENERGY)
        name = "prefill" if kind is Produced.PROMPT else "decode"
        made.append(TableColumn(f"{name}: {unit} per 1,000 {kind} tokens", cells))
    return made if apart else []


def _of_phase(model: ServedModel, kind: Produced) -> int | None:
    energy_uj, tokens = model.phases.get(kind, (0, 0))
    return energy_uj * 1000 // tokens if tokens else None


def _total(models: Sequence[ServedModel]) -> str:
    """Return the sums of all models, in words."""
    active, idle = total(m.charges for m in models), total(m.idle_charges for m in models)
    return (
        f"All models: {units_text.energy(sum(m.active_uj for m in models))}{_costs(active)}; idle "
        f"{units_text.energy(sum(sum(m.idle_uj.values()) for m in models))}{_costs(idle)}."
    )


def _costs(charges: Charges) -> str:
    said = [units_text.money(v.floor, currency) for currency, v in sorted(net(charges).items())]
    return f", {', '.join(said)}" if said else ""


def _out(model: ServedModel) -> ServedOut:
    return ServedOut(
        model.account, model.person, model.experiment, model.name,
        {str(kind): count for kind, count in model.counts.items()},
        _figures(model.energy_uj, model.charges),
        _figures(model.idle_uj, model.idle_charges),
        {
            str(kind): PerThousand(
                model.per_thousand(model.active_uj, kind) or 0,
                {
                    currency: units_text.decimal(
                        Exact.of(model.per_thousand(amount.atoms, kind) or 0).floor, 10**9
                    )
                    for currency, amount in net(model.charges).items()
                },
                None
                if CO2E not in model.charges
                else units_text.decimal(
                    model.per_thousand(model.charges[CO2E].floor, kind) or 0, 1000
                ),
            )
            for kind, count in model.counts.items()
            if count
        },
        {
            str(kind): per
            for kind in model.phases
            if (per := _of_phase(model, kind)) is not None
        },
    )  # fmt: skip


def _figures(energy_uj: Mapping[str, int], charges: Charges) -> Figures:
    return figures({name: Amount(energy) for name, energy in energy_uj.items()}, charges)
