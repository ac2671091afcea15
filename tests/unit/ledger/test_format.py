"""The order of fields is the format of the ledger's table `state`: a change here is a migration.

New fields go last and have a default, so that an older row can still be read.
"""

from __future__ import annotations

from msgspec import inspect

from joulebook.clock import Anchor
from joulebook.core.ledger.state import Books
from joulebook.ledger.state import FIELDS

ORDER = {
    "Anchor": "epoch shift_ns last_ns utc_offset_ns",
    "Meter": "component name",
    "MeterState": "meter base pending suspect booked_uj read_uj gap_to_ns gap_from_ns gap_reason "
    "tick_ns idle_mw resumed held stalled rest_mw rest_ns audit unread_ns listed "
    "calibration_uj shown_uj",
    "Claim": "workload meter t0_ns t1_ns evidence parts of instance",
    "WorkloadId": "scheduler workload start",
    "WorkloadState": "facts balance seen_ns labels shown hold_left_ns ended_ns folded final_ns "
    "held bill shared",
    "Labels": "user account experiment",
    "ExperimentState": "balance baseline hold_left_ns used_ns bill bill_baseline named exposed",
    "Charge": "item currency",
    "ChargeState": "total hold_left_ns",
    "Exact": "whole nano rest",
    "HostSnapshot": "t_ns cores busy_ns resident_bytes installed_bytes uses",
    "NodeMeter": "state covers began_ns edge_ns node_uj children_uj other_uj deficit_uj omits "
    "modelled parts idle_mw",
    "ChildSecond": "component second name",
    "Reading": "meter t_ns energy_uj power_mw samples wrap_uj epoch uptime_ns max_power_mw busy "
    "processes after_outage breaks instances covers modelled hole_ns by_power parts "
    "utilization_pct tensor_ppm",
    "PowerSum": "since_ns t_ns power_mw energy_uj",
    "Audit": "since load blocks learnt verdict ratio proven odd",
    "Learnt": "ratio blocks",
    "WorkloadFacts": "id display name labels started_ns ended_ns complete gpu_count evidence "
    "extra scheduler_start_s named stage outcome named_ns",
    "Renamed": "now before from_ns earlier",
    "Amount": "energy_uj idle_uj held_ns idle_ns calibration_uj tensor_ns tensor_known_ns",
    "Use": "workload cpu_ns memory_bytes cores_milli since_ns",
    "PowerSample": "t_ns power_mw",
    "ProcessUse": "pid started_ns sm_time_ns memory_bytes workload ended instance marks graphics",
    "InstanceUse": "uuid slices of active_ppm",
    "ProcessSpan": "t0_ns t1_ns workload",
}

KINDS = (
    "meters claims workloads experiments remainders remainder_gpu_ns evidence_uj method_uj gaps_ns "
    "foreign_ns affirmed_ns overflow last_ns charges remainder_bills unpriced_uj models census "
    "supplies leaves_uj renamed"
)
"""The kinds of rows, one for each field of the books."""


def found() -> dict[str, str]:
    """The fields of every struct and named tuple in the books, in their order on disk."""
    orders: dict[str, str] = {}
    todo: list[object] = [inspect.type_info(Anchor), *(f.type for f in books_fields())]
    while todo:
        each = todo.pop(0)
        if isinstance(each, inspect.StructType | inspect.NamedTupleType):
            if each.cls.__name__ in orders:
                continue
            orders[each.cls.__name__] = " ".join(field.encode_name for field in each.fields)
            todo += [field.type for field in each.fields]
        elif isinstance(each, inspect.UnionType):
            todo += each.types
        elif isinstance(each, inspect.DictType):
            todo += [each.key_type, each.value_type]
        elif isinstance(each, inspect.VarTupleType):
            todo.append(each.item_type)
        elif isinstance(each, inspect.TupleType):
            todo += each.item_types
    return orders


def books_fields() -> tuple[inspect.Field, ...]:
    books = inspect.type_info(Books)
    assert isinstance(books, inspect.StructType)
    return books.fields


def test_the_order_of_fields_on_disk_is_pinned() -> None:
    assert found() == ORDER
    assert " ".join(field.encode_name for field in books_fields()) == KINDS
    assert set(FIELDS) == set(KINDS.split())
