"""The chat page: plain HTML, CSS and two JavaScript modules, as they are.

`index.html` and `style.css` are what one sees, `client.js` is the chat client (connection, ticket,
resume, heartbeat; it knows no document), and `page.js` joins the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

__all__ = ["page_routes"]

LOADED = {"style.css": "text/css", "client.js": "text/javascript", "page.js": "text/javascript"}


def page_routes() -> list[BaseRoute]:
    """Return the routes of the page and of what it loads; the files stay in memory."""
    loaded = [Route(f"/static/{name}", _serving(name, kind)) for name, kind in LOADED.items()]
    return [Route("/", _serving("index.html", "text/html")), *loaded]


def _serving(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    body = files(__name__).joinpath(name).read_bytes()
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"',
        # Ask each time: else a page of yesterday would talk to the server of today.
        "Cache-Control": "no-cache",
    }

    async def endpoint(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=f"{media_type}; charset=utf-8", headers=headers)

    return endpoint
