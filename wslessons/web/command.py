"""``wslessons web``: the chat on the web, served from a shell."""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path
from typing import Any

from wslessons.chat import ChatServer
from wslessons.errors import UserError, print_line
from wslessons.logs import fold_accept_errors
from wslessons.serving import run_on, stop_event
from wslessons.web.app import serve

__all__ = ["check_certificate", "run", "serve_until_stopped"]


def check_certificate(certfile: str | None, keyfile: str | None) -> dict[str, Any]:
    """Return uvicorn's options for TLS, or none without a certificate.

    Args:
        certfile: a PEM file with the chain.
        keyfile: a PEM file with its key, where that is not in `certfile`.

    Returns:
        The options.

    Raises:
        UserError: a file can't be read, or the two are no certificate with its key.
    """
    if certfile is None:
        if keyfile is not None:
            raise UserError("--keyfile needs the certificate too: add --certfile.", exit_code=2)
        return {}
    for path in filter(None, (certfile, keyfile)):
        try:
            Path(path).read_bytes()
        except OSError as exc:
            raise UserError(f"can't read {path}: {(exc.strerror or str(exc)).lower()}.") from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            # An encrypted key would make OpenSSL ask the terminal.
            certfile,
            keyfile,
            password=_no_password,
        )
    except (ssl.SSLError, ValueError):
        raise UserError(
            f"{certfile} and {keyfile or 'the key in it'} are no certificate with its key: give"
            " PEM files that belong together, the key without a password."
        ) from None
    return {"ssl_certfile": certfile, "ssl_keyfile": keyfile}


def _no_password() -> str:
    raise ValueError("the key has a password")


async def serve_until_stopped(
    chat: ChatServer, host: str, port: int, *, drain: float = 3.0, **options: Any
) -> None:
    """Serve until SIGINT or SIGTERM; print the URL, with the real port, once it accepts.

    On the signal it lets nobody in any more (``/healthz`` and handshakes are answered with 503),
    sends people away with 1001 over `drain` seconds, and ends in bounded time.

    Args:
        chat: the chat to offer.
        host: the address to bind.
        port: the TCP port; 0 takes a free one.
        drain: seconds over which people are sent away.
        options: the others of `wslessons.web.serve`.

    Raises:
        UserError: the address can't be bound, or an argument can't be what it should.
    """
    with stop_event() as stop, fold_accept_errors():
        async with serve(chat, host, port, **options) as server:
            print_line(server.url)
            await server.serve_until(stop)
            # It still accepts meanwhile: a balancer's check is told 503, and so is who would enter.
            await server.app.state.web.drain(drain)


def run(args: argparse.Namespace, chat: ChatServer, **limits: Any) -> int:
    """Serve the chat as the command line says; return the exit code.

    Args:
        args: the words of the command line.
        chat: the chat to offer.
        limits: `limit` and `heartbeat` of `wslessons.web.serve`.

    Returns:
        0, once the server was told to stop.
    """
    tls = check_certificate(args.certfile, args.keyfile)
    names = ("drain", "hosts", "origins", "proxies", "observers")
    options = {name: getattr(args, name) for name in names}
    main = serve_until_stopped(chat, args.host, args.port, uvicorn=tls, **options, **limits)
    run_on("asyncio", main)
    return 0
