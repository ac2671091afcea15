"""`python -m benchmarks [NAME ...]`: run benchmarks, all of them by default (`make bench`)."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from benchmarks.machine import describe, pin

ROOT = Path(__file__).parents[1]
NAMES = {
    "cost": "CPU and memory of the daemon beside its peers, by size of the node, and by stage",
    "start": "CPU time of a start, of `joulebook health`, of `import joulebook`, of a callback",
    "scrape": "latency of /metrics beside the peers",
    "boundary": "from a job's start to the first reading",
    "accuracy": "error of a job's energy, by method",
    "store": "what a commit costs",
    "audit": "what the audit of the energy counters costs",
    "host": "what the energy of CPU and memory costs in a tick",
    "pods": "a Kubernetes node with 30 pods churning: memory, and calls to the API server (root)",
    "dashboards": "queries of Lab overview over 30 days, 200 nodes and 20,000 jobs a day",
    "starts": "what a later start of jobs saves, of what perfect foresight would",
    "lab": "pages and API of the lab server with 20 users, on a year of 20,000 jobs a day",
    "collect": "growth and questions of the ledger of 1,000 nodes (sqlite, PostgreSQL)",
}


def main() -> int:
    """Run what was asked for, and print its tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:10} {what}" for name, what in NAMES.items()),
    )
    parser.add_argument("name", nargs="*", help="which (default: all)")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="shorter: a look, not a result")
    parser.add_argument("--days", type=int, help="lab: so many (default: 365; 30 with --quick)")
    parser.add_argument("--no-peers", action="store_true", help="Joulebook alone")
    parser.add_argument(
        "--profile", action="store_true", help="cost: print the dearest functions of a tick too"
    )
    args = parser.parse_args()
    if unknown := [name for name in args.name if name not in NAMES]:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    # So that what was started is ended also when we are reported to stop.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    machine = describe()
    pin(os.getpid(), last=False)
    found: dict[str, object] = {"machine": machine}
    if not args.json:
        print(f"{machine}\n")
    for name in args.name or NAMES:
        tables = importlib.import_module(f"benchmarks.{name}").run(args)
        found[name] = [table.data() for table in tables]
        if not args.json:
            print("\n".join(table.text() for table in tables), flush=True)
    if args.json:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "exporter"), str(ROOT)]
    sys.exit(main())
