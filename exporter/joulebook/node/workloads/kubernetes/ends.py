"""Decide when a pod has ended, and what must agree before (docs/evidence.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from joulebook.node.workloads.kubernetes.allocation import PodAllocation, PodCgroup
from joulebook.units import NS_PER_S

MISSING_NS = 3 * NS_PER_S // 2
"""A pod that the kubelet does not list for so long, and of which nothing lives, has ended (below
`settle_s`, so in time)."""

RECOVERY_NS = 10 * NS_PER_S
"""So long after it did not answer a kubelet may list less than there is, and takes longer."""

MISSING_RECOVERING_NS = 5 * NS_PER_S


class Circumstances(NamedTuple):
    """What is known in addition to the pod itself.

    Attributes:
        now_ns: What time it is.
        failed_ns: When the kubelet last gave no answer.
        api_silent: There is an API server, and it does not answer.
        node_ns: Makes node time of UTC.

    """

    now_ns: int
    failed_ns: int | None
    api_silent: bool
    node_ns: Callable[[int], int]


def end_ns(
    resident: PodAllocation, body: PodCgroup | None, now: Circumstances, *, lives: bool
) -> int | None:
    """Return when a pod ended, if that is certain; `lives`: processes of it are left.

    One that is missing from the kubelet's list is noted as living while it does.
    """
    if body is not None and body.gone_ns is not None:
        return body.ended_ns(resident.own)
    left_ns = body.left_ns(resident.own) if body is not None else None
    if resident.done_ns is not None and not lives:
        return _done_ns(resident, resident.done_ns, now) if left_ns is None else left_ns
    unnamed = resident.info is None and body is not None and not body.containers
    if left_ns is not None and unnamed and now.now_ns - left_ns >= MISSING_NS:
        return left_ns  # Still listed for a while, but nothing of it will run any more.
    missing_ns, failed_ns = resident.missing_ns, now.failed_ns
    if missing_ns is None:
        return None
    failed = failed_ns is not None and now.now_ns - failed_ns < RECOVERY_NS
    if now.now_ns - missing_ns < (MISSING_RECOVERING_NS if failed else MISSING_NS):
        return None
    lost = failed_ns is not None and missing_ns - failed_ns < RECOVERY_NS
    if lives or (body is None and now.api_silent and lost):
        # A kubelet that was restarted lists no pods until it has heard of the API server.
        resident.lived_ns = now.now_ns
        return None
    return left_ns or max(missing_ns, resident.lived_ns or 0)


def _done_ns(resident: PodAllocation, told_ns: int, now: Circumstances) -> int:
    """Return when a pod ended by the API server alone."""
    finished_utc_ns = resident.info.finished_utc_ns if resident.info is not None else 0
    if not finished_utc_ns:
        return told_ns
    # It is reported in whole seconds, cut off.
    return min(now.node_ns(finished_utc_ns) + NS_PER_S // 2, told_ns)
