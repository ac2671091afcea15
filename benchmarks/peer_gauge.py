"""The exporter that everybody writes first: a power gauge per GPU, in a loop, and nothing else.

python peer_gauge.py PORT [SECONDS]
"""

from __future__ import annotations

import sys
import time

import pynvml
from prometheus_client import Gauge, start_http_server


def main() -> None:
    """Set a gauge for each GPU once per interval, for ever."""
    port, interval_s = int(sys.argv[1]), float((sys.argv[2:] or ["1"])[0])
    power = Gauge("gpu_power_watts", "Power of the GPU.", ["gpu", "uuid"])
    pynvml.nvmlInit()
    gauges = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        gauges.append((handle, power.labels(str(index), pynvml.nvmlDeviceGetUUID(handle))))
    start_http_server(port, "127.0.0.1")
    while True:
        for handle, gauge in gauges:
            gauge.set(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        time.sleep(interval_s)


if __name__ == "__main__":
    main()
