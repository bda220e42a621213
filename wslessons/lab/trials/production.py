"""Lesson 8's experiments: attacks on a server, logins that end, a proxy in front, and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
import zlib
from typing import Any

from websockets import (
    ClientConnection,
    ConnectionClosed,
    InvalidStatus,
    Request,
    Response,
    ServerConnection,
    connect,
    serve,
)
from websockets.frames import Close, Opcode
from websockets.typing import Subprotocol

from wslessons import serving
from wslessons.chat import ChatServer, Denied, Identity
from wslessons.chat.events import SUBPROTOCOL
from wslessons.chat.identity import Opening
from wslessons.errors import extra
from wslessons.exercises.production import make_token, read_token
from wslessons.testing.raw import dial, frame

with extra("lab"):
    import trustme

__all__ = ["bomb", "flood", "impostor", "lasts", "log_in"]

TIMEOUT = 20.0
MEGABYTE = 2**20
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
TOKEN = "ann's secret token"


async def bomb(**options: Any) -> str:
    """Send a megabyte of one letter to a server, compressed, and tell what came of it.

    Args:
        options: those of `websockets.serve`.

    Returns:
        How many bytes were sent, and what the server made of them.
    """
    received = asyncio.get_running_loop().create_future()

    async def handler(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            received.set_result(len(await connection.recv()))
            await connection.wait_closed()

    packed = zlib.compressobj(wbits=-15)
    data = packed.compress(b"x" * MEGABYTE) + packed.flush(zlib.Z_SYNC_FLUSH)
    sent = bytearray(frame(1, data[:-4]))
    sent[0] |= 0x40  # RSV1: this message is compressed (RFC 7692, section 6)
    async with (
        asyncio.timeout(TIMEOUT),
        serve(handler, "127.0.0.1", 0, **options) as server,
        dial(serving.urls(server)[0]) as client,
    ):
        await client.handshake("/", more=DEFLATE)
        client.send(bytes(sent))
        closing = asyncio.create_task(client.closing())
        await asyncio.wait([closing, received], return_when=asyncio.FIRST_COMPLETED)
        size = f"~{len(sent):,} bytes were sent"
        if received.done():
            closing.cancel()
            return f"{size}: a message of {received.result():,} bytes"
        code, reason = await closing
        return f"{size}: closed with {code}, {reason}"


async def _joined(client: ClientConnection, name: str) -> None:
    await client.send(name)
    while await client.recv() != f"[system] >>> {name} joined the chat":
        pass


async def flood(chat: ChatServer, lines: int = 1000) -> str:
    """Have a stranger say so many lines at once, and tell how many bob heard.

    Args:
        chat: where both are.
        lines: how many.

    Returns:
        Bob's count, and whether the stranger is still there.
    """
    async with asyncio.timeout(TIMEOUT), chat.serve() as server:
        url, heard = serving.urls(server)[0], 0
        async with connect(url, proxy=None) as bob, connect(url, proxy=None) as stranger:
            await _joined(bob, "bob")
            await _joined(stranger, "stranger")
            with contextlib.suppress(ConnectionClosed):
                for number in range(lines):
                    await stranger.send(f"buy {number}")
                await stranger.send("/who")
                while "here now" not in str(await stranger.recv()):
                    pass
            gone, reason = stranger.close_code, stranger.close_reason
            await stranger.close()
            while "left the chat" not in (line := str(await bob.recv())):
                heard += line.startswith("[stranger] ")
    about = "" if heard == lines else "~"
    end = f"was closed with {gone}, {reason}" if gone else "is still there"
    return f"bob heard {about}{heard} of {lines:,} lines; the stranger {end}"


async def authenticate(opening: Opening) -> Identity:
    """Let in who has a token of ours, until it ends."""
    if (found := read_token(opening.token)) is None:
        raise Denied("log in first", status=401)
    name, end = found
    return Identity(name, name=name, until=end)


async def log_in(seconds: float, *, renew: bool = False) -> str:
    """Enter a chat with a token that ends soon, stay, and tell what came of it.

    Args:
        seconds: for which the token is good; 0 for no token at all.
        renew: whether to show a new one when the server asks for it.

    Returns:
        How it ended; or, after a renewal, that it has not.
    """
    chat = ChatServer(authenticate=authenticate)
    token = make_token("ann", time.time() + seconds) if seconds else "a forged one"
    options: dict[str, Any] = {
        "proxy": None,
        "subprotocols": [Subprotocol(SUBPROTOCOL)],
        "additional_headers": {"Authorization": f"Bearer {token}"},
    }
    async with asyncio.timeout(TIMEOUT), chat.serve() as server:
        try:
            async with connect(serving.urls(server)[0], **options) as ann:
                await ann.send(json.dumps({"type": "hello", "name": "ann"}))
                async for message in ann:
                    event = json.loads(message)["type"]
                    if event == "expires" and renew:
                        token = make_token("ann", time.time() + seconds)
                        await ann.send(json.dumps({"type": "renew", "token": token}))
                    elif event == "renewed":
                        return "still there, with a new token"
        except ConnectionClosed:
            pass
        except InvalidStatus as refused:
            status, body = refused.response.status_code, refused.response.body or b""
            return f"refused with HTTP {status}: {body.decode().strip()}"
        return f"closed with {ann.close_code}: {ann.close_reason}"


async def lasts(url: str, pings: int = 30) -> str:
    """Join a chat, say nothing, and tell how long that was good.

    Args:
        url: the chat's.
        pings: of the server, after which to look no longer. They are not answered.

    Returns:
        When it ended and how, or that it has not.
    """
    begin, seen = time.monotonic(), 0
    async with asyncio.timeout(TIMEOUT), dial(url.partition("/ws")[0]) as client:
        await client.handshake()
        client.send(frame(1, b"ann"))
        try:
            while seen < pings:
                opcode, payload = await client.frame()
                seen += opcode == Opcode.PING
                if opcode == Opcode.CLOSE:
                    return f"closed with {Close.parse(payload).code}"
        except (asyncio.IncompleteReadError, ConnectionError):
            return f"1006 after ~{time.monotonic() - begin:.1f} s"
    return f"still there after {pings} pings"


async def impostor(context: ssl.SSLContext) -> str:
    """Connect with a token to somebody who only says that it is our server.

    Its certificate is for the right name, and by an authority of its own.

    Args:
        context: how the client looks at certificates.

    Returns:
        What the impostor has learnt.
    """
    read = "nothing"

    def note(connection: ServerConnection, request: Request) -> Response | None:
        nonlocal read
        read = request.headers["Authorization"]
        return None

    async def handler(connection: ServerConnection) -> None:
        await connection.wait_closed()

    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(theirs)
    options: dict[str, Any] = {"process_request": note, "ssl": theirs}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        asyncio.timeout(TIMEOUT),
        serving.serve(handler, "127.0.0.1", 0, **options) as server,
    ):
        url = serving.urls(server, "wss")[0]
        with contextlib.suppress(ssl.SSLCertVerificationError):
            async with connect(url, proxy=None, ssl=context, additional_headers=headers):
                pass
    return f"the impostor read: {read}"
