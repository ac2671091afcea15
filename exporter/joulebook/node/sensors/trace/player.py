"""A recorded trace in the place of hardware, in real time or faster.

A joule of the trace is a joule of the replay: played at ten times the speed, the counter rises ten
times as fast, and power is ten times what it was. In a loop the counter keeps increasing, and the
position in the trace depends on node time alone: like hardware, it continues while the daemon is
down.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from joulebook.clock import Clock
from joulebook.core.energy.readings import (
    REPLAYED,
    Component,
    DeviceStatus,
    Failure,
    Meter,
    PowerSample,
    Reading,
)
from joulebook.errors import ConfigError, SensorLost, SensorMissing
from joulebook.node.sensors.contract import PollResult
from joulebook.node.sensors.trace.format import Trace, TraceDevice, TraceRecord, read_trace
from joulebook.units import MW_PER_W

SHIPPED = Path(__file__).parents[3] / "data" / "traces"

ENDED = "ended"
MAX_SAMPLES = 4_096
PLAUSIBLE_FACTOR = 2
_MILLI = 1_000  # a speed is kept in thousandths, so that places in the trace are exact


def find_trace(name: str) -> Path:
    """The path of a trace: a shipped one by its name (`a100`, `v100`), else `name` itself."""
    shipped = SHIPPED / f"{name}.jsonl.gz"
    return shipped if "/" not in name and shipped.exists() else Path(name)


class ReplaySensor:
    """Plays `traces` side by side at `speed`.

    There are `copies` of each device, each at another place of its trace. Without `loop` it
    begins when it is first opened, and ends with the trace.
    """

    name = "replay"
    kind = "replay"
    components = frozenset({Component.GPU, Component.CPU, Component.DRAM})

    def __init__(
        self,
        clock: Clock,
        *traces: Path,
        speed: float = 1.0,
        loop: bool = True,
        copies: int = 1,
    ) -> None:
        self._speed_milli = round(speed * _MILLI)
        if self._speed_milli < 1 or copies < 1:
            raise ConfigError("replay: speed must be at least 0.001, and copies at least 1")
        self._paths = traces
        self._clock = clock
        self._loop = loop
        self._copies = copies
        self._origin_ns: int | None = 0 if loop else None
        self._players: Mapping[Meter, _Player] = {}
        self._is_open = False

    def owns(self, meter: Meter) -> bool:
        """Return every GPU of the trace."""
        return meter.component is Component.GPU

    def open(self) -> None:
        """Read the traces. Raises `SensorMissing` if that fails."""
        if not self._players:
            try:
                self._players = self._cast()
            except ConfigError as e:
                remedy = "Give the path of a trace, or record one with `joulebook record`."
                raise SensorMissing(str(e), reason="bad_trace", remedy=remedy) from None
        if self._origin_ns is None:
            self._origin_ns = self._clock.now_ns()
        self._is_open = True

    def poll(self, *, processes: bool) -> PollResult:
        """Return the current values of the trace. It has no processes."""
        readings: list[Reading] = []
        failures: list[Failure] = []
        statuses: list[DeviceStatus] = []
        for player, t_ns, place_ns in self._places(self._players):
            record = player.record(place_ns)
            if record is None or record.failed:
                reason = ENDED if record is None else record.failed
                failures.append(Failure(player.meter, t_ns, reason))
            else:
                readings.append(player.reading(t_ns, place_ns, record, processes=processes))
            statuses.append(player.status(t_ns, record))
        return PollResult(tuple(readings), tuple(failures), tuple(statuses))

    def poll_energy(self, meters: Iterable[Meter]) -> Sequence[Reading]:
        """Return the energy counters alone; devices that have none are left out."""
        readings: list[Reading] = []
        for player, t_ns, place_ns in self._places(meters):
            record = player.record(place_ns)
            if player.has_counter and record is not None and not record.failed:
                readings.append(player.counted(t_ns, place_ns, record))
        return readings

    def close(self) -> None:
        """Stop polling; the trace plays on."""
        self._is_open = False

    def _places(self, meters: Iterable[Meter]) -> Iterable[tuple[_Player, int, int]]:
        """Yield the players of `meters`, each with node time and its place in the trace, in ns."""
        if not self._is_open or self._origin_ns is None:
            raise SensorLost("the replay is not open", reason="uninitialized")
        for meter in meters:
            player = self._players.get(meter)
            if player is not None:
                t_ns = self._clock.now_ns()
                place_ns = (t_ns - self._origin_ns) * self._speed_milli // _MILLI
                yield player, t_ns, place_ns + player.shift_ns

    def _cast(self) -> dict[Meter, _Player]:
        players: dict[Meter, _Player] = {}
        for path in self._paths:
            self._cast_trace(read_trace(path), players)
        return players

    def _cast_trace(self, trace: Trace, players: dict[Meter, _Player]) -> None:
        span_ns = max(records[-1].t_ns for records in trace.records)
        for copy in range(self._copies):
            # Copies in a loop are not in step. A trace that ends, ends for all at once.
            shift_ns = span_ns * copy // self._copies if self._loop else 0
            for device, records in zip(trace.header.devices, trace.records, strict=True):
                name = f"{device.name}-copy{copy}" if copy else device.name
                meter = Meter(device.component, name)
                if meter in players:
                    raise ConfigError(f"replay: {name} is in more than one trace")
                players[meter] = _Player(
                    meter,
                    len(players),
                    device,
                    records,
                    span_ns=span_ns,
                    shift_ns=shift_ns,
                    speed_milli=self._speed_milli,
                    loop=self._loop,
                )


class _Player:
    """One device of a trace. A place is the time played of the trace, over all rounds, in ns."""

    def __init__(
        self,
        meter: Meter,
        index: int,
        device: TraceDevice,
        records: Sequence[TraceRecord],
        *,
        span_ns: int,
        shift_ns: int,
        speed_milli: int,
        loop: bool,
    ) -> None:
        self.meter = meter
        self.shift_ns = shift_ns
        self._index = index
        self._device = device
        self._records = records
        self._times = [record.t_ns for record in records]
        self._span_ns = span_ns
        self._speed_milli = speed_milli
        self._loop = loop
        energies = [record.energy_uj for record in records if record.energy_uj is not None]
        self.has_counter = bool(energies)
        self._round_uj = energies[-1] - energies[0] if energies else 0
        highest_mw = max(record.power_mw or 0 for record in records)
        limit_mw = device.max_power_mw or highest_mw * PLAUSIBLE_FACTOR
        self._max_power_mw = self._faster(limit_mw) or None
        self._sampled_ns: int | None = None  # the place up to which samples were handed over

    def record(self, place_ns: int) -> TraceRecord | None:
        """Return the last record at or before a place; `None` when the trace has ended."""
        if not self._loop and place_ns > self._span_ns:
            return None
        in_round_ns = place_ns % self._span_ns if self._loop else place_ns
        return self._records[max(bisect_right(self._times, in_round_ns) - 1, 0)]

    def counted(self, t_ns: int, place_ns: int, record: TraceRecord) -> Reading:
        """Return the counter alone."""
        rounds = place_ns // self._span_ns if self._loop else 0
        energy_uj = None
        if record.energy_uj is not None:
            energy_uj = record.energy_uj + rounds * self._round_uj
        return Reading(self.meter, t_ns, energy_uj, epoch=REPLAYED, max_power_mw=self._max_power_mw)

    def reading(self, t_ns: int, place_ns: int, record: TraceRecord, *, processes: bool) -> Reading:
        """Everything that is booked."""
        counted = self.counted(t_ns, place_ns, record)
        power_mw = None if record.power_mw is None else self._faster(record.power_mw)
        samples = () if self.has_counter else self._samples(t_ns, place_ns)
        busy = record.busy
        if busy is None:
            # A device that does not say is taken to be at work: idleness is not guessed.
            busy = record.values.get("utilization_ratio", 1) > 0
        return Reading(
            self.meter,
            t_ns,
            counted.energy_uj,
            power_mw,
            samples,
            epoch=REPLAYED,
            max_power_mw=self._max_power_mw,
            busy=busy,
            processes=() if processes else None,
        )

    def status(self, t_ns: int, record: TraceRecord | None) -> DeviceStatus:
        """Return the gauges; none while the device fails or after the end."""
        values: dict[str, float] = {}
        if record is not None and not record.failed:
            values.update(record.values)
            watts = values.get("power_watts")
            if watts is None and record.power_mw is not None:
                watts = record.power_mw / MW_PER_W
            if watts is not None:
                values["power_watts"] = watts * self._speed_milli / _MILLI
        return DeviceStatus(
            self.meter,
            self._index,
            t_ns,
            self._device.vendor,
            self._device.model,
            self._device.driver,
            self._device.pci,
            minor=self._index,
            values=values,
        )

    def _faster(self, power_mw: int) -> int:
        return power_mw * self._speed_milli // _MILLI

    def _samples(self, t_ns: int, place_ns: int) -> tuple[PowerSample, ...]:
        """Return the records that were passed since the last reading, at most one round of them."""
        since_ns, self._sampled_ns = self._sampled_ns, place_ns
        if since_ns is None:
            return ()
        since_ns = max(since_ns, place_ns - self._span_ns + 1)
        samples: list[PowerSample] = []
        for rounds in range(since_ns // self._span_ns, place_ns // self._span_ns + 1):
            begun_ns = rounds * self._span_ns
            first = bisect_right(self._times, since_ns - begun_ns)
            last = bisect_right(self._times, place_ns - begun_ns)
            for record in self._records[first:last]:
                if record.power_mw is None or record.failed:
                    continue
                ago_ns = (place_ns - begun_ns - record.t_ns) * _MILLI // self._speed_milli
                sample = PowerSample(t_ns - ago_ns, self._faster(record.power_mw))
                # The end of a round and the beginning of the next are one instant.
                if not samples or sample.t_ns > samples[-1].t_ns:
                    samples.append(sample)
        return tuple(samples[-MAX_SAMPLES:])
