"""The chat on the web: a page, HTTP routes and WebSockets on one port, in one middleware stack.

    chat = ChatServer()
    async with web.serve(chat) as server:
        print(server.url)  # open it in a browser

It is the room of lesson 2: what `application` serves and what `ChatServer.serve` serves at the same
time are the same people. From a shell: ``wslessons web``. Needs the extra `web`.

`app` has the routes, `middleware` and `wslessons.guard` what stands before them, `tickets` the
signed leave to enter, `connection` makes of an ASGI WebSocket a connection for the chat, `frames`
lets uvicorn take ready-made frames, `metrics` counts, `command` is the command line, `page/` what a
browser gets, and `hostile` a page to attack it with.

Not handled here: who people are (a ticket says only that our page asked for it); see lesson 8.
"""

from wslessons.errors import extra

with extra("web"):
    from wslessons.guard import HostCheck, OriginCheck, SecurityHeaders
    from wslessons.web.app import OPTIONS, WebChat, application, serve
    from wslessons.web.connection import AsgiWriter, WebConnection
    from wslessons.web.frames import FrameProtocol
    from wslessons.web.hostile import hostile_application
    from wslessons.web.metrics import Metrics
    from wslessons.web.middleware import RequestLog, TicketCheck
    from wslessons.web.tickets import BadTicket, Tickets

__all__ = [
    "OPTIONS",
    "AsgiWriter",
    "BadTicket",
    "FrameProtocol",
    "HostCheck",
    "Metrics",
    "OriginCheck",
    "RequestLog",
    "SecurityHeaders",
    "TicketCheck",
    "Tickets",
    "WebChat",
    "WebConnection",
    "application",
    "hostile_application",
    "serve",
]
