"""One pod on this node, and the devices that the kubelet gave it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.node.workloads.kubernetes.cgroups import PodDirectory, PodLevel
from joulebook.node.workloads.kubernetes.device_ids import DevicePart, KubeletDevice
from joulebook.node.workloads.kubernetes.pod_object import PodInfo, workload_id
from joulebook.units import NS_PER_S

RENAME_NS = 10 * NS_PER_S
"""A pod that was given to another experiment keeps it for so long."""

_OUTCOME_NS = 10 * NS_PER_S
"""How long the outcome of a pod that ended is waited for."""

MAX_LEFT = 256
"""A container that crashes again and again is another one each time: the last ones count."""


@dataclass(slots=True, eq=False)
class PodCgroup:
    """A pod's directories (one in each hierarchy) and those of its containers; node time."""

    uid: str
    began_ns: int | None = None
    """When its first directory was created; `None` if before we started."""
    paths: set[Path] = field(default_factory=set)
    containers: dict[str, set[Path]] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    """When each container ended that is no more."""
    gone_ns: int | None = None

    def made(self, spot: PodDirectory, t_ns: int, *, live: bool) -> None:
        """One more directory."""
        if not self.paths and not self.containers:
            self.began_ns = t_ns if live else None
            self.gone_ns = None
        if spot.level is PodLevel.POD:
            self.paths.add(spot.path)
        else:
            self.containers.setdefault(spot.container, set()).add(spot.path)
            self.left.pop(spot.container, None)

    def gone(self, spot: PodDirectory, t_ns: int) -> None:
        """One less."""
        if spot.level is PodLevel.POD:
            self.paths.discard(spot.path)
        elif spot.container in self.containers:
            paths = self.containers[spot.container]
            paths.discard(spot.path)
            if not paths:
                del self.containers[spot.container]
                self.left[spot.container] = t_ns
                if len(self.left) > MAX_LEFT:
                    del self.left[next(iter(self.left))]
        if not self.paths and not self.containers:
            self.gone_ns = t_ns

    def left_ns(self, own: frozenset[str]) -> int | None:
        """Return when the last of its containers ended; `None` while one lives, or none was seen.

        `own` are the ids that the API server knows: without them nobody can tell a container
        from the sandbox, which ends a little later, and all must have ended.
        """
        ours = own & (self.containers.keys() | self.left.keys())
        if ours:
            alive = any(each in self.containers for each in ours)
            ends = [self.left[each] for each in ours if each in self.left]
        else:
            alive, ends = bool(self.containers), list(self.left.values())
        return max(ends) if ends and not alive else None

    def lives(self, own: frozenset[str], *, done: bool = False) -> bool:
        """Return whether any process of it is left; `own` are the ids that the API server knows.

        `done`: it is said that all have ended, so that a sandbox which is left does not count.
        """
        known = own & (self.containers.keys() | self.left.keys())
        ours = own & self.containers.keys() if known or (own and done) else self.containers.keys()
        return any(has_processes(path) for each in ours for path in self.containers[each])

    def ended_ns(self, own: frozenset[str]) -> int | None:
        """Return when it ended, once all its directories are gone."""
        if self.gone_ns is None:
            return None
        left_ns = self.left_ns(own)
        return self.gone_ns if left_ns is None else min(left_ns, self.gone_ns)


def has_processes(directory: Path) -> bool:
    """Whether a process is in a cgroup or below it; where the kernel does not say, if it exists."""
    try:
        return "populated 1" in (directory / "cgroup.events").read_text()
    except OSError:
        lists = [Path(where, "cgroup.procs") for where, _, _ in os.walk(directory)]
    try:
        return any([each.read_bytes() for each in lists]) if lists else False
    except OSError:
        return directory.is_dir()


@dataclass(slots=True, eq=False)
class DeviceGrant:
    """A device that a pod holds, from `t0_ns` until `t1_ns` (node time).

    `sharers` is how many pods hold it together by one DRA claim. `nameless`: it was known that a
    pod held it, but not which.
    """

    device: KubeletDevice
    t0_ns: int
    t1_ns: int | None = None
    sharers: int = 1
    nameless: bool = False
    part: DevicePart | None = None
    """Set once known, and unchanged while it is held."""
    somebody: tuple[DevicePart, ...] = ()
    """Where that is not clear: the cards of which it may be one."""
    rejected: bool = False
    """Whether it was reported as unknown."""
    claimed: bool = False
    """Whether its claim was reported: from then on it only ends."""
    over: bool = False
    """Whether its end was reported."""

    def close(self, t_ns: int) -> None:
        """It ended, at `t_ns` unless an earlier end is known."""
        if self.t1_ns is None:
            self.t1_ns = max(t_ns, self.t0_ns)


@dataclass(slots=True, eq=False)
class PodAllocation:
    """A pod that the kubelet lists or listed.

    Attributes:
        since_ns: Since when it is known to be here.
        begun_ns: When it began, if before that (0: it did not).
        was_here: Whether it was there before the first scan.
        maybe: UIDs, one of which may be its own.
        not_uid: A UID that is not its own but its predecessor's under the same name.
        listed_ns: When the kubelet last listed it.
        missing_ns: Since when the kubelet no longer lists it.
        lived_ns: When it was last seen alive although the kubelet does not list it.
        done_ns: Since when all its containers have ended according to the API server.
        unseen: Whether it ended before we started, so that nothing is reported of it.
        held: All devices that it ever held.
        reported: What was last made durable of its facts.
        informed_ns: When the API server last said something new of it.
        choice: The experiment by what it says, and since when.
        renamed_ns: When it was last given to another one on record.

    """

    namespace: str
    name: str
    since_ns: int
    devices: tuple[KubeletDevice, ...] = ()
    uid: str = ""
    info: PodInfo | None = None
    grants: list[DeviceGrant] = field(default_factory=list)
    begun_ns: int = 0
    was_here: bool = False
    maybe: set[str] = field(default_factory=set)
    not_uid: str = ""
    listed_ns: int = 0
    missing_ns: int | None = None
    lived_ns: int | None = None
    done_ns: int | None = None
    ended_ns: int | None = None
    unseen: bool = False
    held: set[KubeletDevice] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    reported: WorkloadFacts | None = None
    informed_ns: int = 0
    choice: tuple[str, int] = ("", 0)
    renamed_ns: int = 0

    @property
    def id(self) -> WorkloadId | None:
        """Its identity; `None` while its uid is not known."""
        return workload_id(self.name, self.uid) if self.uid else None

    @property
    def own(self) -> frozenset[str]:
        """The ids of its containers, as far as the API server has reported them."""
        return self.info.containers if self.info is not None else frozenset()

    @property
    def all_is_said(self) -> bool:
        """Whether it has ended, and all that is known of it is durable."""
        if self.ended_ns is None or self.grants:
            return False
        if self.reported is None:
            return self.unseen or not self.uid
        return self.reported.complete and self.reported.ended_ns == self.ended_ns

    def awaits_outcome(self, now_ns: int) -> bool:
        """Return whether the API server may still say how it ended: it comes after the end."""
        recent = self.ended_ns is not None and now_ns - self.ended_ns < _OUTCOME_NS
        return recent and self.info is not None and not self.info.done

    def take(self, devices: tuple[KubeletDevice, ...], t_ns: int) -> None:
        """The kubelet lists these devices at `t_ns`."""
        self.missing_ns = self.lived_ns = None
        if devices == self.devices and self.ended_ns is None:
            return
        kept = {grant.device for grant in self.grants if grant.t1_ns is None}
        for grant in self.grants:
            if grant.device not in devices:
                grant.close(t_ns)
        self.give([device for device in devices if device not in kept], t_ns)
        self.devices = devices

    def give(self, devices: list[KubeletDevice], t_ns: int) -> None:
        """It holds these devices from `t_ns` on."""
        nameless = not self.uid
        self.grants += [DeviceGrant(device, t_ns, nameless=nameless) for device in devices]
        self.held.update(devices)

    def found(self, grant: DeviceGrant, part: DevicePart, t_ns: int) -> None:
        """Resolve a grant; if it was `unknown_holder` until now, from `t_ns` on."""
        if grant.claimed and grant.t1_ns is None:
            grant.close(t_ns)
            grant = DeviceGrant(grant.device, t_ns, sharers=grant.sharers, nameless=grant.nameless)
            self.grants.append(grant)
        grant.part = part

    def bind(self, uid: str, t_ns: int, began_ns: int | None) -> None:
        """Its uid is known from `t_ns` on; `began_ns` is when its cgroup was made."""
        first = not self.uid
        self.uid = uid
        if began_ns is not None and began_ns < self.since_ns:
            for grant in self.grants:
                if grant.t0_ns == self.since_ns:
                    grant.t0_ns = began_ns
            self.since_ns = began_ns
        if first and any(grant.nameless for grant in self.grants):
            self._name(t_ns)

    def _name(self, t_ns: int) -> None:
        for grant in [g for g in self.grants if g.nameless and g.t1_ns is None]:
            if not grant.claimed:
                grant.nameless = False
                continue
            grant.close(t_ns)
            self.grants.append(DeviceGrant(grant.device, t_ns, sharers=grant.sharers))

    def end(self, t_ns: int) -> None:
        """It ended."""
        self.ended_ns = max(t_ns, self.begun_ns or self.since_ns)
        for grant in self.grants:
            grant.close(t_ns)
        self.grants = [g for g in self.grants if g.claimed or g.t1_ns != g.t0_ns]

    def begin(self, t_ns: int) -> None:
        """It began at `t_ns`, unless an earlier begin is known."""
        if 0 < t_ns < (self.begun_ns or self.since_ns):
            self.begun_ns = t_ns

    def revive(self, t_ns: int) -> None:
        """It was thought to have ended, and a container of it begins."""
        self.ended_ns = None
        self.give(list(self.devices), t_ns)

    def share(self, device: KubeletDevice, sharers: int, t_ns: int) -> None:
        """So many pods hold the device together from `t_ns` on."""
        for grant in [g for g in self.grants if g.device == device and g.t1_ns is None]:
            if grant.sharers == sharers:
                continue
            if not grant.claimed:
                grant.sharers = sharers
                continue
            grant.close(t_ns)
            self.grants.append(DeviceGrant(device, t_ns, sharers=sharers, part=grant.part))

    def named_ns(self, experiment: str) -> int:
        """Since when the API server says that this is its experiment; 0: it says nothing."""
        if self.info is None:
            return 0
        if not self.choice[1] or experiment != self.choice[0]:
            self.choice = (experiment, self.informed_ns)
        return self.choice[1]

    def steady(self, fact: WorkloadFacts, now_ns: int) -> WorkloadFacts:
        """The facts, with the experiment as it is on record if that was changed a moment ago.

        Each change begins another workload in the books.
        """
        known, from_ns = self.reported, self.renamed_ns + RENAME_NS
        if known is None or not self.renamed_ns:
            return fact
        if fact.labels == known.labels:
            return msgspec.structs.replace(fact, named_ns=known.named_ns)
        if now_ns >= from_ns:
            return msgspec.structs.replace(fact, named_ns=max(fact.named_ns, from_ns))
        return msgspec.structs.replace(
            fact, labels=known.labels, named=known.named, named_ns=known.named_ns
        )

    def settle(self, reported: WorkloadFacts | None, now_ns: int) -> None:
        """What was handed over is durable: these facts, and every end that was claimed."""
        known, self.reported = self.reported, reported or self.reported
        changed = reported and known and known.labels.experiment != reported.labels.experiment
        if changed and known and known.named_ns:
            self.renamed_ns = now_ns
        self.grants = [grant for grant in self.grants if not grant.over]


def share_claims(allocations: Iterable[PodAllocation], now_ns: int) -> None:
    """Part devices evenly among the pods that hold them together by one claim of DRA."""
    open_now = [
        (allocation, grant.device)
        for allocation in allocations
        for grant in allocation.grants
        if grant.t1_ns is None and grant.device.is_dra
    ]
    holders = Counter(device for _, device in open_now)
    for allocation, device in open_now:
        allocation.share(device, holders[device], now_ns)
