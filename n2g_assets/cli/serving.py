"""``n2g explore``: the pages of the published database, on this machine unless told otherwise."""

import contextlib
import errno
import ipaddress
import socket

import click
import uvicorn

from n2g_assets.cli.output import say
from n2g_assets.core.errors import N2GError, SettingsError
from n2g_assets.core.explorer import dagster_address
from n2g_assets.core.home import Home
from n2g_assets.explore.app import MOST_ADDRESS, build_app, warm_up
from n2g_assets.explore.attempt import Measure
from n2g_assets.reading.database import Database

CONNECTIONS = 512
"""Open at once, idle ones too; what comes on top of them is told to try again (503)."""

NAMES = ("localhost", "127.0.0.1", "::1")
"""Under which it answers where it listens to this machine alone, besides what ``--host`` says."""


def explore(host: str, port: int, *, with_model: bool = False) -> None:
    """Serve until it is interrupted; ``with_model`` loads subject models for texts of the reader's own.

    Raises:
        StorageError: nothing is published yet.
        SettingsError: it cannot listen there, or ``$N2G_DAGSTER`` is no address.
    """
    database = Database.of(Home.from_environment())
    database.snapshot()
    dagster_address("")
    with listening(host, port) as listener:
        here = _is_this_machine(listener.getsockname()[0])
        if not here:
            click.echo(f"Whoever reaches port {port} of this machine can read the whole database.", err=True)
        shown = f"[{host}]" if ":" in host else host
        try:
            with contextlib.suppress(N2GError):  # a page says it
                warm_up(database)
            app = build_app(database, _measure() if with_model else None, {*NAMES, host.lower()} if here else ())
            config = uvicorn.Config(
                app, log_level="warning", limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=2,
                http="h11",  # the other one refuses addresses from 64 kB on, without a sentence
                h11_max_incomplete_event_size=2 * MOST_ADDRESS,
            )  # fmt: skip
            _Server(config, f"http://{shown}:{port}").run(sockets=[listener])
        except KeyboardInterrupt:
            say("")


def _measure() -> Measure:
    from n2g_assets.reading.measuring import Measuring

    return Measuring()


class _Server(uvicorn.Server):
    """Says its address once it answers, and a Ctrl-C ends it in order."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        say(f"Explorer: {self._address}  (Ctrl-C stops it)")


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        SettingsError: the port is in use, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # which fails where another program listens already
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(f"Port {port} is in use: choose another with --port, or stop what uses it.") from error
        raise SettingsError(
            f"{host}:{port} cannot be listened on ({error.strerror or error}): choose another --host or --port."
        ) from error


def _is_this_machine(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
