"""A report on the time before Joulebook, from what another exporter left in a site's Prometheus.

dcgm-exporter's energy counter or power gauge, nvidia_gpu_exporter's gauges, Kepler's counters: see
`core/report/past.py` for how samples become energy. Energy goes to a pod where the series name one,
to a SLURM job where accounting says that it alone had GPUs of a node and had all of them; the rest
is `unknown_holder`. https://github.com/NVIDIA/dcgm-exporter,
https://github.com/utkuozdemir/nvidia_gpu_exporter, https://sustainable-computing.io/kepler/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import msgspec

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import ZERO, Amount, Method, Remainder, Subject
from joulebook.core.report.dataset import (
    Posting,
    ReportData,
    ReportWorkload,
    Unknowable,
)
from joulebook.core.report.past import (
    KINDS,
    Allocation,
    Device,
    ForeignMetric,
    Jobs,
    Piece,
    Sampled,
    Track,
    chosen,
    held_ns,
)
from joulebook.core.sanitize import clean
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.errors import ConfigError, SourceError
from joulebook.lab.report.past_labels import device_of, holder_of, homes, short, target_of
from joulebook.lab.report.prometheus_api import PrometheusApi
from joulebook.lab.report.sacct import GpuJob

SAMPLES = "another exporter's samples"
"""The evidence of all that is booked here."""

_CHUNK_S = 6 * 3600
_CHARS = 200
_METRICS = '{__name__=~"' + "|".join(KINDS) + '"}'


class PastReport(msgspec.Struct, frozen=True):
    """What was found: the data of a report, and how well it is known.

    Attributes:
        exporters: By node and component: the exporter, its metric, and the method.
        bridged_uj: Energy that counters counted while nothing was scraped.
        gap_s: By node: time of its devices without samples, which no gauge can fill.
        resets: How often counters began anew.
        rejected: How often a value rose by more than a device can consume.
        twice: Devices that several targets scraped; of each, one target counts at a time.
        jobs: Why no SLURM jobs are in it, if so.

    """

    data: ReportData
    exporters: Mapping[tuple[str, Component], ForeignMetric]
    bridged_uj: int
    gap_s: Mapping[str, float]
    resets: int
    rejected: int
    twice: int
    jobs: str


class Past:
    """Reads one Prometheus, and adds up what its samples say."""

    def __init__(self, api: PrometheusApi, since_s: int, until_s: int) -> None:
        """Ask which series there are in [since, until). Raises `SourceError`; `ConfigError`."""
        if not since_s:
            raise ConfigError(
                "--since: expected one, since Prometheus does not say where it begins"
            )
        self.until_s = min(until_s, int(time.time()))
        if self.until_s <= since_s:
            raise ConfigError("--since: expected a time before --until and before now")
        self._api, self._since_s = api, since_s
        devices: dict[Device, set[ForeignMetric]] = {}
        self._models: dict[tuple[str, Meter], str] = {}
        named = set()
        self._homes: dict[str, str] = {}
        every = api.series(_METRICS, since_s, self.until_s)
        self._homes = homes(
            (device, labels) for labels in every if (device := self._device(labels)) is not None
        )
        for labels in every:
            kind = KINDS[labels["__name__"]]
            device = self._device(labels)
            if device is not None:
                devices.setdefault(device, set()).add(kind)
                if holder_of(labels):
                    named.add(target_of(labels))
                if model := labels.get("modelName") or labels.get("gpu_name"):
                    self._models[device.node, _meter(device)] = clean(model, _CHARS)
        if not devices:
            raise SourceError(
                f"{api.where}: has no samples of dcgm-exporter, nvidia_gpu_exporter or Kepler in "
                f"this time; expected one of {', '.join(KINDS)}"
            )
        self._named = frozenset(named)
        self._counts = chosen(devices)
        self._kinds = devices
        self._tracks: dict[tuple[Device, str], Track] = {}
        self._sums: dict[tuple[Device, Method, Subject, int], Amount] = {}
        self._workloads: dict[WorkloadId, ReportWorkload] = {}
        self._bridged_uj = 0

    def _device(self, labels: Mapping[str, str]) -> Device | None:
        device = device_of(labels, KINDS[labels["__name__"]])
        if device is None or device.name not in self._homes:
            return device
        return device._replace(node=self._homes[device.name])

    def gpus(self) -> dict[str, int]:
        """Return how many GPUs each node has."""
        found: dict[str, int] = {}
        for device, kinds in self._kinds.items():
            if device.component is Component.GPU and any(self._used(device, k) for k in kinds):
                found[device.node] = found.get(device.node, 0) + 1
        return found

    def _used(self, device: Device, kind: ForeignMetric) -> bool:
        return not kind.by_pod and self._counts(device, kind)

    def read(
        self, jobs: Sequence[GpuJob], why_no_jobs: str, expand: Callable[[str], Iterable[str]]
    ) -> PastReport:
        """Add up all samples. `expand` reads SLURM's lists of hosts. Raises `SourceError`."""
        known = self._known_jobs(jobs, expand)
        for at_s in range(self._since_s, self.until_s, _CHUNK_S):
            end_s = min(at_s + _CHUNK_S, self.until_s)
            rows = []
            for labels, samples in self._api.raw(f"{_METRICS}[{end_s - at_s}s]", end_s):
                kind = KINDS[labels["__name__"]]
                device = self._device(labels)
                if device is not None and self._counts(device, kind):
                    source, holder = target_of(labels), holder_of(labels)
                    if kind.exporter == "Kepler" and not kind.by_pod:
                        holder = ""  # the exporter's own pod
                    rows.append(
                        (device, kind, [Sampled(*each, source, holder) for each in samples])
                    )
            rows.sort(key=lambda row: (row[0], row[1].metric))
            for (device, metric), group in groupby(rows, key=lambda row: (row[0], row[1].metric)):
                samples_of = [sample for *_, found in group for sample in found]
                self._add(device, KINDS[metric], samples_of, known)
        return self._report(why_no_jobs)

    def _known_jobs(self, jobs: Sequence[GpuJob], expand: Callable[[str], Iterable[str]]) -> Jobs:
        gpus: dict[str, int] = {}
        for node, count in self.gpus().items():
            gpus[short(node)] = gpus.get(short(node), 0) + count
        found = []
        for job in jobs:
            nodes = frozenset(short(node) for node in expand(job.nodes))
            found.append(Allocation(job.job, nodes, job.gpus, job.start_s, job.end_s))
        self._jobs = {job.job: job for job in jobs}
        self._whole = {
            each for each in found if sum(gpus.get(node, 0) for node in each.nodes) == each.gpus
        }
        return Jobs(found)

    def _add(self, device: Device, kind: ForeignMetric, samples: list[Sampled], jobs: Jobs) -> None:
        track = self._tracks.setdefault((device, kind.metric), Track(kind))
        for piece in track.feed(samples, self._named):
            self._bridged_uj += piece.energy_uj * piece.bridged
            if piece.holder:
                self._book(device, kind, self._pod(piece.holder), piece)
                continue
            if kind.by_pod:
                continue
            for part, job in jobs.cut(short(device.node), piece):
                whose: Subject = Remainder.UNKNOWN_HOLDER
                if job is not None and job in self._whole and device.component is Component.GPU:
                    whose = self._job(self._jobs[job.job])
                self._book(device, kind, whose, part)

    def _book(self, device: Device, kind: ForeignMetric, whose: Subject, piece: Piece) -> None:
        held = device.component is Component.GPU and kind.exporter != "Kepler"
        key = (device, kind.method, whose, int(piece.t0_s // 900 * 900))
        amount = Amount(piece.energy_uj, 0, held_ns(piece) if held else 0)
        self._sums[key] = self._sums.get(key, ZERO).plus(amount)

    def _pod(self, holder: str) -> WorkloadId:
        namespace, _, pod = holder.partition("/")
        key = WorkloadId("kubernetes", holder)
        if key not in self._workloads:
            self._workloads[key] = ReportWorkload(
                key, holder, pod, Labels("", namespace, pod), evidence=SAMPLES
            )
        return key

    def _job(self, job: GpuJob) -> WorkloadId:
        key = WorkloadId("slurm", job.job)
        if key not in self._workloads:
            words = (clean(word, _CHARS) for word in (job.user, job.account, job.name))
            self._workloads[key] = ReportWorkload(
                key, job.job, clean(job.name, _CHARS), Labels(*words), gpu_count=job.gpus,
                evidence=SAMPLES,
            )  # fmt: skip
        return key

    def _report(self, why_no_jobs: str) -> PastReport:
        rows = tuple(
            Posting(device.node, whose, _meter(device), quarter_s, amount, method, SAMPLES)
            for (device, method, whose, quarter_s), amount in _shared(self._sums).items()
        )
        gaps: dict[str, float] = {}
        for (device, _), track in self._tracks.items():
            if track.gap_s:
                gaps[device.node] = gaps.get(device.node, 0.0) + track.gap_s
        data = ReportData(
            f"Prometheus at {self._api.where}", self._since_s, self.until_s, rows,
            workloads=self._workloads, models=self._models,
            unknown={Unknowable.TIMES: "it has values by scrape"},
            warnings=tuple(self._api.warnings),
        )  # fmt: skip
        tracks = self._tracks.values()
        return PastReport(
            data,
            {
                (device.node, device.component): kind
                for device, kinds in self._kinds.items()
                for kind in kinds
                if self._used(device, kind)
            },
            self._bridged_uj,
            gaps,
            sum(track.resets for track in tracks),
            sum(track.rejected for track in tracks),
            sum(len(track.targets) > 1 for track in tracks),
            why_no_jobs,
        )


def _shared(
    sums: Mapping[tuple[Device, Method, Subject, int], Amount],
) -> Mapping[tuple[Device, Method, Subject, int], Amount]:
    """Take what an exporter itself gave to pods off what its node is left with, and no more."""
    left: dict[tuple[str, Component, int], int] = {}
    shares: dict[tuple[str, Component, int], int] = {}
    for (device, method, whose, quarter_s), amount in sums.items():
        place = (device.node, device.component, quarter_s)
        if method is Method.APPORTIONED:
            shares[place] = shares.get(place, 0) + amount.energy_uj
        elif whose is Remainder.UNKNOWN_HOLDER:
            left[place] = left.get(place, 0) + amount.energy_uj
    if not shares:
        return sums
    found: dict[tuple[Device, Method, Subject, int], Amount] = {}
    taken: dict[tuple[str, Component, int], int] = {}
    for key, amount in sums.items():
        place = (key[0].node, key[0].component, key[3])
        if key[1] is Method.APPORTIONED:
            share_uj = amount.energy_uj
            if shares[place] > left.get(place, 0):
                share_uj = share_uj * left.get(place, 0) // shares[place]
            taken[place] = taken.get(place, 0) + share_uj
            found[key] = amount._replace(energy_uj=share_uj)
    for key, amount in sums.items():
        place = (key[0].node, key[0].component, key[3])
        if key not in found:
            off_uj = 0
            if key[2] is Remainder.UNKNOWN_HOLDER:
                off_uj = min(taken.get(place, 0), amount.energy_uj)
                taken[place] = taken.get(place, 0) - off_uj
            found[key] = amount._replace(energy_uj=amount.energy_uj - off_uj)
    return found


def _meter(device: Device) -> Meter:
    return Meter(device.component, device.name)
