"""The command `joulebook`, and `python -m joulebook`.

Container engines run `joulebook health` all day, so a healthy daemon is queried here, before
anything but the address in its configuration is loaded. Everything else (no answer, other options,
a wrong configuration) is left to the command itself.
"""

import gc
import os
import sys

CONFIG = "/etc/joulebook/joulebook.toml"
TIMEOUT_S = 5.0
MAX_BYTES = 65536


def main() -> int:
    """Run the command line and return its exit status."""
    if sys.argv[1:] == ["health"]:
        try:
            print(_heard())
        except Exception:  # noqa: S110 - whatever it is, the command says it
            pass
        else:
            return 0
    gc.disable()  # what is imported stays: `commands.shared.options` enables it again
    from joulebook.cli import main as command_line  # noqa: PLC0415

    return command_line()


def _heard() -> str:
    """Return the answer of a healthy daemon. Raises anything at all if there is none."""
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
    """Get /healthz on this machine, without verifying the certificate."""
    import socket  # noqa: PLC0415

    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    # As bytes: a string would be treated as an international name, which costs more than all the
    # rest.
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
