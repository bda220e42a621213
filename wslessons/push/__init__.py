"""Polling against pushing: a fleet's deployment statuses, and four ways to watch them on one port.

    fleet = push.Fleet()
    async with push.serve(fleet) as server, push.WebSocketTab(server.url) as tab:
        fleet.report("api", "failed")  # or from elsewhere: PUT {server.url}/fleet/api
        await tab.reached(1)
        print(tab.services["api"])

`fleet` holds the statuses, `app` offers them over HTTP and WebSocket, `sse` frames server-sent
events, `tabs` are the dashboards that watch, `builds` reports statuses, and `costs` turns what was
measured into forecasts.
The measuring is `wslessons.bench.push_load`. Needs the extra `push`.

Not handled here: who may see or report a status, more than one server, and TLS; see lesson 8.
"""

from wslessons.errors import extra

with extra("push"):
    from wslessons.push.app import application, serve
    from wslessons.push.builds import Builds
    from wslessons.push.costs import Load, UnitCosts
    from wslessons.push.fleet import STATUSES, Change, Fleet, Snapshot
    from wslessons.push.tabs import (
        KINDS,
        EventSourceTab,
        LongPollingTab,
        PollingTab,
        Tab,
        WebSocketTab,
    )

__all__ = [
    "KINDS",
    "STATUSES",
    "Builds",
    "Change",
    "EventSourceTab",
    "Fleet",
    "Load",
    "LongPollingTab",
    "PollingTab",
    "Snapshot",
    "Tab",
    "UnitCosts",
    "WebSocketTab",
    "application",
    "serve",
]
