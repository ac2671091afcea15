"""A collector, made as `[collect]` says."""

from __future__ import annotations

import functools

from joulebook.archive.engine import connect
from joulebook.collect.client import NodeClient
from joulebook.collect.discovery import Discovery, FileSd, HttpSd, Static, Targets
from joulebook.collect.service import Collector
from joulebook.config.collect import Collect
from joulebook.errors import ConfigError
from joulebook.rates.http import Web


def make_collector(settings: Collect) -> Collector:
    """Raises `ConfigError` for what is missing, or cannot be used."""
    if not settings.url:
        raise ConfigError(
            "collect.url is not set: expected sqlite:///absolute/path or "
            "postgresql://user@host:port/database"
        )
    sources = _sources(settings)
    if not sources:
        raise ConfigError(
            "nothing to collect from: set collect.targets, file_sd, http_sd or kubernetes"
        )
    if not settings.token_file:
        raise ConfigError(
            "collect.token_file is not set: expected the path of a file with the token that the "
            "daemons have in their server.token_file"
        )
    return Collector(
        settings,
        Targets(sources),
        NodeClient(settings),
        functools.partial(connect, settings.url, create=True),
    )


def _sources(settings: Collect) -> list[Discovery]:
    sources: list[Discovery] = []
    if settings.targets:
        sources.append(Static(settings))
    sources += [FileSd(pattern, settings.scheme) for pattern in settings.file_sd]
    if settings.http_sd:
        web = Web(timeout_s=settings.timeout_s, proxied=False)
        sources.append(HttpSd(settings.http_sd, settings.scheme, web))
    if settings.kubernetes:
        # Late: who does not run there should not pay for it.
        from joulebook.collect import kubernetes  # noqa: PLC0415

        sources.append(
            kubernetes.EndpointSlices(
                kubernetes.api_server(),
                settings.kubernetes_service,
                settings.kubernetes_namespace or kubernetes.namespace_of_this_pod(),
                settings.kubernetes_port_name,
                settings.scheme,
            )
        )
    return sources
