"""What browsers are told about an answer: what it may load, who may frame it, that it is text."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wslessons.guard.http import SAFE_HEADERS

__all__ = ["SecurityHeaders"]


class SecurityHeaders:
    """Tell browsers what a page of ours may do. Acts on HTTP only.

    Nothing from elsewhere, nothing inline, no plugins; even if somebody's text became markup, no
    script in it would run. It stands outside of all that may refuse a request, so that a refusal
    has the headers, too.

    Args:
        app: what stands behind it.
        frames: the origins whose pages may hold ours in a frame.
    """

    def __init__(self, app: ASGIApp, frames: Iterable[str] = ()) -> None:
        self.app = app
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
            " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors"
        )
        self.headers = SAFE_HEADERS | {
            "Content-Security-Policy": " ".join([policy, "'self'", *frames])
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and add the headers to its response (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        await self.app(scope, receive, sending)
