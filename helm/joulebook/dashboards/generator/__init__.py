"""Writes the Grafana dashboards and the Prometheus rules of `dashboards/`, which are committed.

`make docs` writes them again and `make test` says when they differ from what this package gives.
A dashboard is one module with a `DASHBOARD`; `shelf.py` lists them.
"""
