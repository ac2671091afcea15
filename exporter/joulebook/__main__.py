"""The command `joulebook`, and `python -m joulebook`.

Container engines run `joulebook health` all day, so a healthy daemon is queried here, before
anything but the address in its configuration is loaded. Everything else (no answer, other options,
a wrong configuration) is left to the command itself. `joulebook mark` needs no other package
either. The further commands are in extras; one whose extra is missing names it.
"""

import gc
import sys

from joulebook import daemon_address

TIMEOUT_S = 5.0
MAX_BYTES = 65536

NEEDS = {
    **dict.fromkeys(
        ("run", "doctor", "config", "hooks", "release", "rates", "record", "calibrate", "replay"),
        "node",
    ),
    **dict.fromkeys(("lab", "collect", "bill", "relabel"), "lab"),
    "mlflow": "mlflow",
}
"""The extra that a command needs; all others need `cli`."""


def main() -> int:
    """Run the command line and return its exit status."""
    words = sys.argv[1:]
    if words == ["health"]:
        try:
            print(_heard())
        except Exception as error:
            problem = f"{error}"
        else:
            return 0
    elif words[:1] == ["mark"]:
        from joulebook.mark import main as mark  # noqa: PLC0415

        return mark(words[1:])
    gc.disable()  # what is imported stays: `commands.shared.options` enables it again
    try:
        from joulebook.cli import main as command_line  # noqa: PLC0415

        return command_line()
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "joulebook":
            raise
        if words == ["health"]:
            print(f"joulebook health: the daemon is not healthy, or not there: {problem}")
            return 1
        name = next((word for word in words if not word.startswith("-")), "")
        print(
            f"{f'joulebook {name}'.strip()} needs {error.name}, which is not installed here: "
            f"pip install 'joulebook[{NEEDS.get(name, 'cli')}]'",
            file=sys.stderr,
        )
        return 2


def _heard() -> str:
    """Return the answer of a healthy daemon. Raises anything at all if there is none."""
    host, port, tls = daemon_address.listening()
    status, body = _asked(host, port, tls=tls)
    if status != 200:
        raise ValueError(body)
    return body


def _asked(host: str, port: int, *, tls: bool) -> tuple[int, str]:
    """Get /healthz on this machine, without verifying the certificate."""
    import socket  # noqa: PLC0415

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
