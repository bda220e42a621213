"""A page on another origin that attacks a server of ours, for lessons and tests.

Whoever looks at it has it do two things in their browser, with their cookies: read an address by
`fetch`, and open a WebSocket. It shows what came of either. Serve it on another port: that makes
another origin (RFC 6454, section 4), though not another site: even ``SameSite`` cookies go along.
"""

from __future__ import annotations

import html
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

__all__ = ["hostile_application"]

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<title>You have won!</title>
<body data-target="{target}" style="font: 16px system-ui; margin: 2em">
<h1>You have won!</h1>
<p>While you read this, the page tries to talk to another server in your name.</p>
<p>By fetch: <output id="fetch">…</output></p>
<p>By WebSocket: <output id="socket">…</output></p>
<script type="module">
  const {{ http, ws, hello }} = JSON.parse(document.body.dataset.target);
  const show = (id, words) => (document.getElementById(id).textContent = words);
  fetch(http, {{ credentials: "include" }})
    .then((answer) => answer.text())
    .then((text) => show("fetch", `read: ${{text}}`), () => show("fetch", "refused"));
  const socket = new WebSocket(ws);
  let heard = "";
  socket.onopen = () => hello && socket.send(hello);
  socket.onmessage = ({{ data }}) => show("socket", (heard = `read: ${{data}}`));
  socket.onclose = ({{ code }}) => heard || show("socket", `closed, code ${{code}}`);
</script>
"""


def hostile_application(http: str, ws: str, hello: str = "") -> Starlette:
    """Return an application whose only page attacks the address `http` and the WebSocket `ws`.

    Args:
        http: the URL that it reads by `fetch`.
        ws: the WebSocket's URL.
        hello: what it says first over the WebSocket; nothing if empty.

    Returns:
        The application, for `wslessons.asgi` to serve.
    """
    target = html.escape(json.dumps({"http": http, "ws": ws, "hello": hello}))

    async def page(request: Request) -> Response:
        return HTMLResponse(PAGE.format(target=target))

    return Starlette(routes=[Route("/", page)])
