"""What a server needs that strangers can reach.

`http` and `websocket` are uvicorn's connections with an end to every wait and a bound on every
buffer; `wslessons.asgi` serves with them. `origins` has the checks of ``Host`` and ``Origin``,
`addresses` those of where a request comes from, `headers` what browsers are told: middleware for
any ASGI application. `nginx` is a real one in front of a server, and `files` has what an operator
needs beside it. Needs the extra `web`.
"""

from wslessons.errors import extra

with extra("web"):
    from wslessons.guard.addresses import Forwarded, Networks
    from wslessons.guard.headers import SecurityHeaders
    from wslessons.guard.http import HttpConnection
    from wslessons.guard.origins import HostCheck, OriginCheck
    from wslessons.guard.websocket import WebSocketConnection

__all__ = [
    "Forwarded",
    "HostCheck",
    "HttpConnection",
    "Networks",
    "OriginCheck",
    "SecurityHeaders",
    "WebSocketConnection",
]
