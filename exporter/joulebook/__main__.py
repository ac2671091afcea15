"""The command `joulebook`, and `python -m joulebook`.

Engines ask for `joulebook health` all day, so a daemon that is well is heard here, before anything
of this package is imported, but for the address of its configuration. What is out of the ordinary
(no answer, another option, a configuration that is wrong) is the command's own to explain.
"""

import os
import sys

CONFIG = "/etc/joulebook/joulebook.toml"
TIMEOUT_S = 5.0
MAX_BYTES = 65536


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.argv[1:] == ["health"]:
        try:
            print(_heard())
        except Exception:  # noqa: S110 - whatever it is, the command says it
            pass
        else:
            return 0
    from joulebook.cli import main as command_line  # noqa: PLC0415

    return command_line()


def _heard() -> str:
    """What a daemon that is well answers. Raises anything at all if there is none to be heard."""
    server: dict[str, str] = {}
    if os.path.exists(CONFIG):  # noqa: PTH110 - pathlib alone costs as much as all this
        import tomllib  # noqa: PLC0415

        with open(CONFIG, "rb") as file:  # noqa: PTH123
            server = tomllib.load(file).get("server", {})
    listen, web = server.get("listen") or "127.0.0.1:9816", server.get("web_config") or ""
    listen = os.environ.get("JOULEBOOK_SERVER_LISTEN", listen)
    web = os.environ.get("JOULEBOOK_SERVER_WEB_CONFIG", web)
    host, _, port = listen.rpartition(":")
    status, body = _asked(host.strip("[]"), int(port), tls=bool(web) and _names_tls(web))
    if status != 200:
        raise ValueError(status)
    return body


def _names_tls(web_config: str) -> bool:
    with open(web_config, "rb") as file:  # noqa: PTH123
        return b"tls_server_config" in file.read()


def _asked(host: str, port: int, *, tls: bool) -> tuple[int, str]:
    """Ask for /healthz on this machine, where a certificate is not looked at."""
    import socket  # noqa: PLC0415

    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    # As bytes: a text would be read as an international name, which costs more than all the rest.
    client = socket.create_connection((host.encode(), port), TIMEOUT_S)  # type: ignore[arg-type]
    if tls:
        import ssl  # noqa: PLC0415

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = context.wrap_socket(client)
    with client, client.makefile("rb") as answer:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = answer.read(MAX_BYTES).partition(b"\r\n\r\n")
    version, status = head.split(maxsplit=2)[:2]
    if not version.startswith(b"HTTP/") or b"\r\ntransfer-encoding:" in head.lower():
        raise ValueError(head)
    return int(status), body.decode().strip()


if __name__ == "__main__":
    sys.exit(main())
