from __future__ import annotations

import msgspec
import pytest
from tests.unit.metrics.sample import GPU0, GPU1, RUNNING, SHARING, device, small_view

from joulebook.core.attribution.claims import Evidence, Holder
from joulebook.core.workloads import WorkloadId
from joulebook.metrics.dcgm import LABELS, METRICS, collect_dcgm
from joulebook.metrics.exposition import Renderer
from joulebook.metrics.snapshot import Snapshot


def lines(view: Snapshot) -> dict[str, list[str]]:
    renderer = Renderer(view.node, view.cluster)
    return {f.metric.name: renderer.block(f).lines.splitlines() for f in collect_dcgm(view)}


def test_line_is_that_of_dcgm_exporter() -> None:
    assert lines(small_view())["DCGM_FI_DEV_POWER_USAGE"][0] == (
        'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-5ef3a1c0-0000-4000-8000-000000000000",'
        'pci_bus_id="00000000:18:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",'
        'Hostname="node-1",DCGM_FI_DRIVER_VERSION="570.86.15",hpc_job="101"} 412.75'
    )


def test_help_does_not_claim_that_energy_counts_since_boot() -> None:
    (energy,) = (m for m in METRICS if m.name.endswith("TOTAL_ENERGY_CONSUMPTION"))
    assert energy.help == "Total energy consumption since the ledger began (in mJ)."


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("SM_CLOCK", "1980"),
        ("MEM_CLOCK", "2619"),
        ("GPU_TEMP", "64"),
        ("GPU_UTIL", "97"),
        ("MEM_COPY_UTIL", "41"),
        ("ENC_UTIL", "0"),
        ("DEC_UTIL", "0"),
        ("FB_USED", "62464"),
        ("FB_FREE", "18856"),
        ("FB_RESERVED", "600"),
        ("TOTAL_ENERGY_CONSUMPTION", "1235867891"),
    ],
)
def test_units_are_those_of_dcgm(field: str, value: str) -> None:
    assert lines(small_view())[f"DCGM_FI_DEV_{field}"][0].endswith(f" {value}")


def test_all_metrics_are_emitted() -> None:
    shown = lines(small_view())
    assert list(shown) == [metric.name for metric in METRICS]
    assert all(len(series) == 2 for series in shown.values())
    assert all(metric.labels == LABELS for metric in METRICS)


def test_job_is_named_only_where_it_is_the_only_one() -> None:
    view = small_view()
    assert "hpc_job=" not in lines(view)["DCGM_FI_DEV_GPU_UTIL"][1]
    pod = WorkloadId("kubernetes", "pod.12345678")
    shared = (Holder(SHARING, Evidence.SCONTROL, 1, 2), Holder(pod, Evidence.POD_RESOURCES, 1, 2))
    view = msgspec.structs.replace(view, holders={GPU1: shared})
    assert 'hpc_job="107"' in lines(view)["DCGM_FI_DEV_GPU_UTIL"][1]
    assert "hpc_job=" not in lines(view)["DCGM_FI_DEV_GPU_UTIL"][0]


def test_device_is_named_by_its_minor_number() -> None:
    status = msgspec.structs.replace(device(GPU0, 0), minor=3)
    view = msgspec.structs.replace(small_view(), statuses=(status,))
    assert 'device="nvidia3"' in lines(view)["DCGM_FI_DEV_GPU_UTIL"][0]
    status = msgspec.structs.replace(status, minor=None, index=5)
    view = msgspec.structs.replace(view, statuses=(status,))
    assert 'device="nvidia5"' in lines(view)["DCGM_FI_DEV_GPU_UTIL"][0]


def test_what_a_device_does_not_say_is_absent() -> None:
    status = msgspec.structs.replace(
        device(GPU0, 0), values={"memory_used_bytes": 1.0}, counts={}, last_xid=None
    )
    view = msgspec.structs.replace(
        small_view(),
        statuses=(status,),
        books=msgspec.structs.replace(small_view().books, meters={}),
    )
    shown = {name for name, series in lines(view).items() if series}
    assert shown == {"DCGM_FI_DEV_FB_USED"}
    assert RUNNING.workload in lines(view)["DCGM_FI_DEV_FB_USED"][0]
