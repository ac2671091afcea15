"""One pod on this node, and the devices that the kubelet gave it."""

from __future__ import annotations

from dataclasses import dataclass, field

from joulebook.core.workloads import WorkloadFacts, WorkloadId
from joulebook.tenants.kubernetes.listing import Device
from joulebook.tenants.kubernetes.parts import Part
from joulebook.tenants.kubernetes.pod import PodInfo, workload_id


@dataclass(slots=True, eq=False)
class Grant:
    """A device that a pod holds, from `t0_ns` until `t1_ns` (node time).

    `sharers` is how many pods hold it together by one DRA claim. `nameless`: it was known that a
    pod held it, but not which.
    """

    device: Device
    t0_ns: int
    t1_ns: int | None = None
    sharers: int = 1
    nameless: bool = False
    part: Part | None = None
    """Once it is clear what it is: that does not change while it is held."""
    somebody: tuple[Part, ...] = ()
    """Where that is not clear: the cards of which it may be one."""
    refused: bool = False
    """It was said that nobody can tell which device that is."""
    claimed: bool = False
    """A claim was handed over: from then on it only ends."""
    over: bool = False
    """Its end was handed over too."""

    def close(self, t_ns: int) -> None:
        """It ended, at `t_ns` unless an earlier end is known."""
        if self.t1_ns is None:
            self.t1_ns = max(t_ns, self.t0_ns)


@dataclass(slots=True, eq=False)
class Resident:
    """A pod that the kubelet lists or listed."""

    namespace: str
    name: str
    since_ns: int
    devices: tuple[Device, ...] = ()
    uid: str = ""
    info: PodInfo | None = None
    grants: list[Grant] = field(default_factory=list)
    missing_ns: int | None = None
    """Since when the kubelet has not listed it any more."""
    ended_ns: int | None = None
    held: set[Device] = field(default_factory=set)
    """All devices that it ever held."""
    models: set[str] = field(default_factory=set)
    told: WorkloadFacts | None = None
    """What was last made durable of its facts."""

    @property
    def id(self) -> WorkloadId | None:
        """Its identity; `None` while its uid is not known."""
        return workload_id(self.name, self.uid) if self.uid else None

    @property
    def own(self) -> frozenset[str]:
        """The ids of its containers, as far as the API server has told them."""
        return self.info.containers if self.info is not None else frozenset()

    @property
    def all_is_said(self) -> bool:
        """Whether it has ended, and all that is known of it is durable."""
        if self.ended_ns is None or self.grants:
            return False
        if self.told is None:
            return not self.uid
        return self.told.complete and self.told.ended_ns == self.ended_ns

    def take(self, devices: tuple[Device, ...], t_ns: int) -> None:
        """The kubelet lists these devices at `t_ns`."""
        self.missing_ns = None
        if devices == self.devices and self.ended_ns is None:
            return
        kept = {grant.device for grant in self.grants if grant.t1_ns is None}
        for grant in self.grants:
            if grant.device not in devices:
                grant.close(t_ns)
        self.give([device for device in devices if device not in kept], t_ns)
        self.devices = devices

    def give(self, devices: list[Device], t_ns: int) -> None:
        """It holds these devices from `t_ns` on."""
        nameless = not self.uid
        self.grants += [Grant(device, t_ns, nameless=nameless) for device in devices]
        self.held.update(devices)

    def found(self, grant: Grant, part: Part, t_ns: int) -> None:
        """It is clear now what a grant is; if it was somebody's till now, from `t_ns` on."""
        if grant.claimed and grant.t1_ns is None:
            grant.close(t_ns)
            grant = Grant(grant.device, t_ns, sharers=grant.sharers, nameless=grant.nameless)
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
            self.grants.append(Grant(grant.device, t_ns, sharers=grant.sharers))

    def end(self, t_ns: int) -> None:
        """It ended."""
        self.ended_ns = max(t_ns, self.since_ns)
        for grant in self.grants:
            grant.close(t_ns)

    def revive(self, t_ns: int) -> None:
        """It was thought to have ended, and a container of it begins."""
        self.ended_ns = None
        self.give(list(self.devices), t_ns)

    def share(self, device: Device, sharers: int, t_ns: int) -> None:
        """So many pods hold the device together from `t_ns` on."""
        for grant in [g for g in self.grants if g.device == device and g.t1_ns is None]:
            if grant.sharers == sharers:
                continue
            if not grant.claimed:
                grant.sharers = sharers
                continue
            grant.close(t_ns)
            self.grants.append(Grant(device, t_ns, sharers=sharers, part=grant.part))

    def settle(self, told: WorkloadFacts | None) -> None:
        """What was handed over is durable: these facts, and every end that was claimed."""
        self.told = told or self.told
        self.grants = [grant for grant in self.grants if not grant.over]
