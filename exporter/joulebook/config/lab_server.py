"""Keys for the lab server: `[lab]` and `[serving]`."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from joulebook.config.node import Section, doc


class NoticeSection(Section, frozen=True):
    """Monthly statements, and notices of idle GPUs, to those who are listed here."""

    users: Annotated[
        dict[str, tuple[str, ...]],
        doc(
            "Users who get their statement once a month is closed, and where: mail addresses, "
            "https:// URLs of webhooks (as Slack has them), or paths of files that hold such a "
            'URL: "ada" = ["ada@example.org"].'
        ),
    ] = {}
    accounts: Annotated[
        dict[str, tuple[str, ...]],
        doc("The same for accounts, whose statements have totals that name nobody."),
    ] = {}
    idle_gpu_hours: Annotated[
        float,
        doc(
            "Tell the same ones when they had so many GPU-hours allocated but idle on a day (UTC). "
            "0: never.",
            ge=0,
        ),
    ] = 0.0
    smtp: Annotated[str, doc("host:port of the mail server.")] = ""
    smtp_tls: Annotated[
        Literal["starttls", "tls", "none"], doc("Encryption of the connection to it.")
    ] = "starttls"
    smtp_user: Annotated[str, doc("User name there. Empty: it wants none.")] = ""
    smtp_password_file: Annotated[str, doc("File with the password of `smtp_user`.")] = ""
    sender: Annotated[str, doc("Address that mails come from.")] = ""


class LabSection(Section, frozen=True):
    """The lab server: pages and an API over the collected ledger, for everybody in the lab."""

    url: Annotated[
        str,
        doc(
            "Address of the lab server for commands on login nodes (`joulebook acct`, and `job`, "
            "`report`, `leaderboard` where there is no ledger to read). Empty: the option --lab."
        ),
    ] = ""
    token_file: Annotated[
        str,
        doc(
            "File with a token of the lab server for these commands. Empty: they prove by MUNGE "
            "who asks."
        ),
    ] = ""
    listen: Annotated[str, doc("host:port of the lab server.")] = "127.0.0.1:9817"
    socket: Annotated[
        str,
        doc(
            "Path of a Unix socket on which users of this machine, or a proxy, are known by their "
            "account. Empty: none."
        ),
    ] = ""
    public_url: Annotated[
        str, doc("Address of the lab server as browsers see it. Empty: http:// and `listen`.")
    ] = ""
    admins: Annotated[
        tuple[str, ...],
        doc("Users who see everything, besides root and the server's own account."),
    ] = ()
    coordinators: Annotated[
        dict[str, tuple[str, ...]],
        doc('Users who see all jobs of an account: "account" = ["ada", "grace"].'),
    ] = {}
    public: Annotated[
        tuple[Literal["totals"], ...],
        doc('What is open to everybody: "totals" are the lab\'s sums, which name nobody.'),
    ] = ()
    munge: Annotated[bool, doc("Accept MUNGE credentials, as SLURM does.")] = True
    munge_socket: Annotated[str, doc("Socket of munged. Empty: the usual one.")] = ""
    proxy_user: Annotated[
        str,
        doc(
            "Account of a reverse proxy that proves who its users are and asks on `socket`. A "
            "proxy that proves itself may name others in `proxy_header`. Empty: none."
        ),
    ] = ""
    proxy_secret_file: Annotated[
        str,
        doc(
            "File of secrets, one a line, of a reverse proxy that asks over TCP and shows one in "
            "the header X-Joulebook-Proxy-Secret. Empty: none."
        ),
    ] = ""
    proxy_certificate: Annotated[
        str,
        doc(
            "Name in the client certificate of a reverse proxy that asks by mutual TLS "
            "(`client_ca_file` of `server.web_config`). Empty: none."
        ),
    ] = ""
    kubernetes: Annotated[
        bool,
        doc(
            "Accept tokens of Kubernetes that are made for the audience joulebook-lab. Whoever may "
            "list the pods of a namespace sees all jobs of that account. Needs rights to create "
            "tokenreviews and subjectaccessreviews."
        ),
    ] = False
    slurm_coordinators: Annotated[
        bool,
        doc("Take the coordinators of accounts from sacctmgr, too, every ten minutes."),
    ] = False
    results: Annotated[
        dict[str, str],
        doc(
            "Results that everybody finds under leaderboards, ranked by the energy of their own "
            'runs: "name" = a CSV file, a model card, or an MLflow store (https://...).'
        ),
    ] = {}
    admin_comment: Annotated[
        bool,
        doc(
            "Write what a job consumed into its AdminComment in SLURM's accounting, once it is "
            "booked on all of its nodes. The server's account must be SlurmUser or an Operator."
        ),
    ] = False
    proxy_header: Annotated[str, doc("Header in which the proxy names the user.")] = "X-Remote-User"
    notices: NoticeSection = NoticeSection()


def lab_conflicts(lab: LabSection) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot: yield the key, and what is wrong with it."""
    for key in ("url", "public_url"):
        value = getattr(lab, key)
        if value and not re.fullmatch(r"https?://[^/?#\s@]+/?", value):
            yield f"lab.{key}", f"{value!r}: expected http(s)://host:port without a path"
    if lab.socket and not lab.socket.startswith("/"):
        yield "lab.socket", f"{lab.socket!r}: expected an absolute path"
    if lab.proxy_secret_file and not lab.proxy_secret_file.startswith("/"):
        yield "lab.proxy_secret_file", f"{lab.proxy_secret_file!r}: expected an absolute path"
    if lab.proxy_user and not lab.socket:
        yield "lab.proxy_user", "expected together with lab.socket, on which the proxy asks"
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", lab.proxy_header, re.ASCII):
        yield "lab.proxy_header", f"{lab.proxy_header!r}: expected the name of a header"
    yield from _notice_conflicts(lab.notices)


_ADDRESS = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}"


def _notice_conflicts(notices: NoticeSection) -> Iterator[tuple[str, str]]:
    by_mail = False
    for key in ("users", "accounts"):
        for name, destinations in getattr(notices, key).items():
            for to in destinations:
                mail = bool(re.fullmatch(_ADDRESS, to, re.ASCII)) and not to.startswith("/")
                by_mail |= mail
                if not mail and not re.fullmatch(r"https://[^\s@]+|/[^\s]+", to):
                    yield (
                        f'lab.notices.{key}."{name}"',
                        f"{to!r}: expected a mail address, an https:// URL or an absolute path",
                    )
    if by_mail:
        if not re.fullmatch(r"[^\s:]+:\d{1,5}", notices.smtp):
            yield "lab.notices.smtp", f"{notices.smtp!r}: expected host:port of a mail server"
        if not re.fullmatch(_ADDRESS, notices.sender, re.ASCII):
            yield "lab.notices.sender", f"{notices.sender!r}: expected a mail address"
    if bool(notices.smtp_user) != bool(notices.smtp_password_file):
        yield "lab.notices.smtp_password_file", "expected together with lab.notices.smtp_user"


class ServingTarget(Section, frozen=True):
    """A server of a model, at a fixed address."""

    url: Annotated[str, doc("Address of its metrics: http(s)://host:port/path.")]
    workload: Annotated[
        str, doc("The workload that it runs in, as shown: a SLURM job's number, or a pod's name.")
    ]
    cluster: Annotated[str, doc("Cluster of that workload, if its name is not unique.")] = ""
    model: Annotated[str, doc("Name of the model, where the server states none.")] = ""


class ServingSection(Section, frozen=True):
    """Energy per token: which model servers the lab server reads token counters of."""

    kubernetes: Annotated[
        bool,
        doc(
            "Read the pods of the cluster that the ledger knows, by their annotations "
            "`prometheus.io/scrape`, `port` and `path`, or a port named `metrics` or `http`."
        ),
    ] = False
    kubernetes_selector: Annotated[
        str, doc("Label selector of these pods. Empty: every pod with a metrics port.")
    ] = ""
    targets: Annotated[
        dict[str, ServingTarget],
        doc('Servers at fixed addresses: "llama" = { url = "...", workload = "4711" }'),
    ] = {}
    prometheus: Annotated[
        str, doc("URL of a Prometheus that scrapes the servers already. Empty: none.")
    ] = ""
    prometheus_token_file: Annotated[
        str, doc("File with a token, or user:password, for that Prometheus.")
    ] = ""
    every_s: Annotated[float, doc("Seconds between readings.", ge=5, le=900)] = 60.0
    timeout_s: Annotated[float, doc("Timeout of one server, in seconds.", gt=0, le=60)] = 5.0
    models: Annotated[
        int, doc("The most models counted of one workload; more are not counted.", ge=1, le=1000)
    ] = 20
    cost_limits: Annotated[
        dict[str, float],
        doc(
            "The most that 1,000 output tokens may cost, in `rates.currency`, by name of the model "
            '(`*` matches anything; the first match wins); above it an alert fires: "*" = 0.02'
        ),
    ] = {}

    @property
    def reads(self) -> bool:
        """Return whether there is anything to read."""
        return bool(self.kubernetes or self.targets or self.prometheus)


def serving_conflicts(serving: ServingSection) -> Iterator[tuple[str, str]]:
    """Check what the types of single keys cannot: yield the key, and what is wrong with it."""
    urls = {f'targets."{name}".url': each.url for name, each in serving.targets.items()}
    for key, url in {**urls, "prometheus": serving.prometheus}.items():
        if url and not is_address(url):
            yield f"serving.{key}", f"{url!r}: expected http(s)://host:port/path without a user"
    for name, limit in serving.cost_limits.items():
        if not 0 < limit < 1e12:
            yield f'serving.cost_limits."{name}"', f"{limit:g}: expected a price above 0"


def is_address(url: str) -> bool:
    """Return whether it is the address of a page: no user, no query."""
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc)
    return bool(parts.scheme in {"http", "https"} and named and plain and url.isprintable())
