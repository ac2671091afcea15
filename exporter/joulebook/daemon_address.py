"""The address of this node's daemon, for clients that load next to nothing.

`joulebook health` runs all day in container engines, and programs ask for their figures: neither
reads the configuration as the daemon does.
"""

import os

CONFIG = "/etc/joulebook/joulebook.toml"


def listening() -> tuple[str, int, bool]:
    """Return host, port and whether it speaks TLS. Raises `ValueError` and `OSError`."""
    server: dict[str, str] = {}
    if os.path.exists(CONFIG):  # noqa: PTH110 - pathlib alone costs as much as all this
        import tomllib  # noqa: PLC0415

        with open(CONFIG, "rb") as file:  # noqa: PTH123
            server = tomllib.load(file).get("server", {})
    listen, web = server.get("listen") or "127.0.0.1:9816", server.get("web_config") or ""
    listen = os.environ.get("JOULEBOOK_SERVER_LISTEN", listen)
    web = os.environ.get("JOULEBOOK_SERVER_WEB_CONFIG", web)
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    here = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return here, int(port), bool(web) and _names_tls(web)


def _names_tls(web_config: str) -> bool:
    with open(web_config, "rb") as file:  # noqa: PTH123
        return b"tls_server_config" in file.read()
