"""What the sources are handed when the daemon starts: what the ledger held when it stopped."""

from __future__ import annotations

import msgspec
from tests.unit.node.stand_ins import JOB, METER, Jobs

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.ledger.state import Books, Renamed, WorkloadState
from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId
from joulebook.node.workload_sources import Mask, WorkloadSources
from joulebook.node.workloads.contract import Before

OPEN = Claim(JOB, METER, 5, None, Evidence.PROLOG)
ENDED = WorkloadId("slurm", "300", 90)
FACTS = WorkloadFacts(JOB, labels=Labels("ada", "nlp", "bert"), started_ns=5)
BOOKS = Books(
    claims=(OPEN, Claim(ENDED, METER, 1, 4, Evidence.PROLOG)),
    workloads={
        JOB: WorkloadState(FACTS, {}, 5),
        ENDED: WorkloadState(WorkloadFacts(ENDED, ended_ns=4), {}, 1, ended_ns=4),
    },
)


def opened(masked: Mask = str) -> Before:
    source = Jobs()
    WorkloadSources([source], masked).open(lambda _: None, BOOKS)
    return source.before


def test_open_claims_and_the_facts_of_what_had_not_ended() -> None:
    assert opened() == Before((FACTS,), (OPEN,))


def test_what_used_nothing_for_a_moment_has_not_ended() -> None:
    """A series ends where nothing is booked at a tick, as right after a restart."""
    source = Jobs()
    quiet = WorkloadFacts(WorkloadId("process", "run-1-2"), started_ns=1)
    books = Books(workloads={quiet.id: WorkloadState(quiet, {}, 1, ended_ns=4)})
    WorkloadSources([source]).open(lambda _: None, books)
    assert source.before == Before((quiet,), ())


def test_a_source_hears_of_what_was_renamed_by_the_name_that_it_knows() -> None:
    later = JOB._replace(start=JOB.start + 20)
    there = {
        JOB: WorkloadState(FACTS, {}, 5, ended_ns=20),
        later: WorkloadState(msgspec.structs.replace(FACTS, id=later, started_ns=20), {}, 20),
    }
    books = Books(claims=(OPEN,), workloads=there, renamed={JOB: Renamed(later, JOB, 20)})
    source = Jobs()
    WorkloadSources([source]).open(lambda _: None, books)
    assert source.before == Before((msgspec.structs.replace(FACTS, started_ns=20),), (OPEN,))


def test_a_masked_name_is_no_users_name() -> None:
    unnamed = FACTS.labels._replace(user="")
    assert opened(lambda user: f"masked {user}").facts == (
        msgspec.structs.replace(FACTS, labels=unnamed),
    )
