"""What the lab's pages show of a run, and what is copied from that of an experiment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from joulebook.core.report.runs import WorkloadTotals
from joulebook.core.report.tally import ENOUGH
from joulebook.core.units_text import ENERGY, in_column
from joulebook.errors import ConfigError
from joulebook.lab.report.document import document
from joulebook.lab.report.formats import renderer
from joulebook.lab.report.model import Statement
from joulebook.lab.web.pictures import SvgPicture
from joulebook.lab.web.present import IDLE_SHARE, cards, lasted, started
from joulebook.lab.web.view import JobLine

FORMAT_WORDS = {
    "latex": "LaTeX", "markdown": "Markdown", "hf": "model card", "json": "JSON", "html": "HTML",
    "text": "text", "csv": "CSV of all runs", "boamps": "BoAmps",
    "eu-gpai": "EU model documentation", "cyclonedx": "CycloneDX", "spdx": "SPDX", "sci": "SCI",
}  # fmt: skip
"""Formats of a statement, in the words of those who need them."""


def to_copy(made: Statement) -> list[tuple[str, str, str, bool]]:
    """Return what can be copied: an id, a title, the text, and whether its lines are kept."""
    said = document(made)
    made_of = [
        ("sentence", "A sentence, for an abstract", said.abstract, False),
        ("short", "A paragraph, for an appendix", " ".join(said.short), False),
        ("latex", "The same in LaTeX", renderer("latex", "short")(made), True),
        ("markdown", "The same in Markdown", renderer("markdown", "short")(made), True),
    ]
    # A form of others' may need what is not known, such as CO2e.
    with contextlib.suppress(ConfigError):
        card = renderer("hf")(made)
        made_of.append(("model-card", "Metadata of a model card (Hugging Face)", card, True))
    return made_of


def one_run(run: WorkloadTotals, picture: SvgPicture | None) -> dict[str, Any]:
    """Return what one screen says of a run."""
    job, line = run.workload, JobLine.of(run)
    component_unit, cells = in_column(
        [amount.energy_uj for amount in line.by_component.values()], ENERGY
    )
    coverage = run.coverage
    return {
        "shown": job.shown,
        "facts": [
            (name, value)
            for name, value in (
                ("name", job.name), ("user", job.labels.user), ("account", job.labels.account),
                ("experiment", job.labels.experiment), ("cluster", job.of_cluster),
                ("nodes", ", ".join(run.nodes)), ("GPUs", str(job.gpu_count or "")),
                ("started", started(job.started_utc_ns)), ("duration", lasted(job)),
                ("outcome", job.outcome), ("stage", job.stage),
            )
            if value
        ],
        "cards": cards([line.usage], []),
        "unit": component_unit,
        "components": list(zip(line.by_component, cells, strict=True)),
        "coverage": "" if coverage is None else f"{coverage:.1%}",
        "partial": coverage is not None and coverage < ENOUGH,
        "methods": [
            (method.value, f"{amount.energy_uj / (run.total.energy_uj or 1):.0%}")
            for method, amount in run.by_method.items()
        ],
        "replayed": run.replayed,
        "picture": picture,
        "advice": list(_advice(run)),
    }  # fmt: skip


def _advice(run: WorkloadTotals) -> Iterator[str]:
    """Yield what the owner of a run can do about it."""
    gpu = run.gpu
    if gpu.held_ns and gpu.idle_ns > IDLE_SHARE * gpu.held_ns:
        yield (
            f"GPUs were idle for {gpu.idle_ns / gpu.held_ns:.0%} of the time they were held: end "
            "the job when it is done, load data ahead, or ask for fewer GPUs."
        )
    if not run.workload.named:
        yield (
            "Nobody gave this experiment its name: set JOULEBOOK_EXPERIMENT, or --comment "
            "experiment=NAME, so that its runs are added up as one."
        )
