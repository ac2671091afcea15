"""What an alert is, and those of the GPUs themselves: errors, worn memory, cards that are gone."""

from __future__ import annotations

from typing import NamedTuple


class Alert(NamedTuple):
    """One alert. `summary` says what is the matter and what to do, in a line."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str
    description: str


_CARD = "cluster, node, gpu, uuid"
_OF_CARD = "{{ $labels.node }} GPU {{ $labels.gpu }}"
_XID = 'joulebook_gpu_xid_errors_total{xid!~"13|31|43|45"}'
_MOST_PROMISED = 16

_PROMISED = "\nor ".join(
    f'group by (node) (kube_node_labels{{label_nvidia_com_gpu_count="{count}"}}) * {count}'
    for count in range(1, _MOST_PROMISED + 1)
)
"""What the label nvidia.com/gpu.count says; its value is text, of which PromQL makes no number."""

OF_GPUS = (
    Alert(
        "JoulebookGpuXid",
        f"sum by ({_CARD}, xid) (increase({_XID}[15m])) > 0\n"
        f"or sum by ({_CARD}, xid) ({_XID}\n"
        f"  unless last_over_time({_XID}[6h] offset 15m)) > 0",
        "0m",
        "warning",
        f"{_OF_CARD}: Xid {{{{ $labels.xid }}}}; look it up in NVIDIA's catalogue of Xids",
        "The driver reported an error of the GPU. Xids that a program's own faults cause (13, 31, "
        "43, 45) are left out.",
    ),
    Alert(
        "JoulebookGpuMemoryErrors",
        f'sum by ({_CARD}) (increase(joulebook_gpu_ecc_errors_total{{kind="uncorrected"}}[1h])) '
        "> 0",
        "0m",
        "critical",
        f"{_OF_CARD}: memory errors that could not be corrected; drain the node, reset the GPU",
        "Results of what ran on this GPU may be wrong.",
    ),
    Alert(
        "JoulebookGpuMemoryWearsOut",
        "joulebook_gpu_row_remapping_failed == 1\n"
        "or joulebook_gpu_remapped_rows_pending == 1\n"
        "or joulebook_gpu_retired_pages_pending == 1",
        "15m",
        "warning",
        f"{_OF_CARD}: bad memory waits for a reset, or cannot be remapped; reset the GPU, or "
        "replace it",
        "Rows or pages with errors are taken out of use with the next reset. Where remapping "
        "failed, the GPU is to be replaced.",
    ),
    Alert(
        "JoulebookGpuGone",
        f"((group by ({_CARD}) (last_over_time(joulebook_gpu_info[6h]))\n"
        f"unless on (cluster, node, uuid) joulebook_gpu_info)\n"
        "and on (cluster, node) joulebook_build_info\n"
        'unless on (cluster, node) joulebook_sensor_up{sensor="nvml"} == 0)\n'
        "or label_replace(\n"
        "  sum by (cluster, node, meter) (increase(joulebook_gap_seconds_total{\n"
        '    component="gpu",reason=~"gpu_is_lost|gpu_not_found|missing"\n'
        '  }[15m])) > 300, "uuid", "$1", "meter", "(.*)"\n'
        ")",
        "5m",
        "critical",
        "{{ $labels.node }}: GPU {{ $labels.uuid }} does not answer any more; see dmesg for its "
        "Xid (79: it fell off the bus)",
        "A GPU that was read is not found, or lost, while the daemon of its node is well and has "
        "not released the driver.",
    ),
    Alert(
        "JoulebookFewerGpusThanPromised",
        f"(\n{_PROMISED}\n)\n> on (node) max by (node) (\n"
        '  count by (cluster, node) (joulebook_gpu_info{vendor="nvidia"})\n'
        "  or on (cluster, node) joulebook_build_info * 0\n"
        ")",
        "15m",
        "warning",
        "{{ $labels.node }}: its label nvidia.com/gpu.count promises {{ $value }} GPUs, and fewer "
        "are there; cordon it, and look for the one that is missing",
        "The scheduler counts on GPUs that the node does not have. It needs "
        "--metric-labels-allowlist=nodes=[nvidia.com/gpu.count] of kube-state-metrics.",
    ),
)
