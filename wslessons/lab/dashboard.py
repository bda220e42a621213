"""The same dashboard twice: one tab that polls and one that is told, side by side and alive."""

from __future__ import annotations

import asyncio
import contextlib
import html
from typing import TYPE_CHECKING, Any

from wslessons.errors import UserError, extra
from wslessons.lab import background
from wslessons.lab.panel import LivePanel, replace
from wslessons.lab.theme import BLUE, GREEN, GREY, PURPLE, RED
from wslessons.link import Link

if TYPE_CHECKING:
    from wslessons import push

with extra("lab"):
    import ipywidgets


__all__ = ["Dashboard", "Side", "dashboard_panel"]

COLOURS = {
    "queued": GREY,
    "building": BLUE,
    "deploying": PURPLE,
    "healthy": GREEN,
    "failed": RED,
}

REFRESH = 0.1
"""Seconds between two looks at the tabs: what the page shows is late by so much, on both sides."""

BLIP = 0.5
"""Seconds for which the button's failure lasts."""


class Side:
    """One tab with a link of its own, and the widgets that show both.

    Args:
        title: what stands above it.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._table, self._numbers = ipywidgets.HTML(), ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [ipywidgets.HTML(f"<b>{title}</b>"), self._table, self._numbers],
            layout=ipywidgets.Layout(flex="1 1 150px"),
        )
        self.widget.add_class("wslessons-side")
        self.tab: push.Tab | None = None
        self.link: Link | None = None

    def show(self) -> None:
        """Draw the tab as it is now."""
        if self.tab is None or self.link is None:
            return
        rows = "".join(
            f'<tr><td style="padding-right:12px">{html.escape(service)}</td>'
            f'<td style="color:{COLOURS.get(status, "inherit")};font-weight:bold">'
            f"{html.escape(status)}</td></tr>"
            for service, status in self.tab.services.items()
        )
        self._table.value = f"<table>{rows}</table>"
        tab, each = self.tab, self.link.connections
        passed = sum(one.up.forwarded + one.down.forwarded for one in each)
        noun = "request" if tab.requests == 1 else "requests"
        late = f"{tab.delays[-1]:.2f} s after it happened" if tab.delays else "not yet"
        self._numbers.value = "<br>".join(
            [
                f"{tab.requests:,} {noun}, {tab.unchanged:,} &times; nothing changed",
                f"{passed:,} bytes",
                f"last change learnt: {late}",
                f"changes seen {tab.updates:,}, missed {tab.missed:,}",
                "noticed: " + html.escape(", ".join(map(" ".join, list(tab.history)[-3:]))),
                *(["<b>connection lost, coming back</b>"] if tab.broken else []),
            ]
        )


class Dashboard(LivePanel):
    """The panel of `dashboard_panel`; its tabs find the server anew when its cell runs again.

    Args:
        title: what the panel is called.
        name: that of the server, which is found anew by it.
        interval: seconds between two polls.
    """

    def __init__(self, title: str, name: str, interval: float) -> None:
        super().__init__(title)
        self._name, self._url = name, ""
        self.asking, self.told = Side("asks"), Side("is told")
        self._interval = ipywidgets.BoundedFloatText(
            value=interval,
            min=0.5,
            max=10,
            step=0.5,
            description="ask every, s",
            layout=ipywidgets.Layout(width="180px"),
        )
        self._interval.observe(self._on_interval, names="value")
        deploy = self.button("Deploy", self.deploy, tooltip="web: deploying or healthy")
        fail = self.button("Fail for half a second", self.blip, tooltip="api: failed")
        self.fill(
            ipywidgets.HTML(f"<b>{html.escape(title)}</b>"),
            ipywidgets.HBox([self.asking.widget, self.told.widget]),
            self._interval,
            ipywidgets.HBox([deploy, fail]),
            self._error,
        )
        self._stack = contextlib.AsyncExitStack()
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open both tabs.

        Raises:
            UserError: the server does not answer as a fleet does.
        """
        await self._connect()
        self._refreshing = asyncio.create_task(self._refresh(), name=f"{self.title} refresh")

    async def close(self) -> None:
        """Close both tabs and stop refreshing. Idempotent."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await self._stack.aclose()

    async def blip(self) -> None:
        """Let the api fail and recover, faster than most people poll."""
        await self._report("api", "failed")
        await asyncio.sleep(BLIP)
        await self._report("api", "healthy")

    async def deploy(self) -> None:
        """Start or finish a deployment of the web service."""
        tab = self.told.tab
        deploying = tab is not None and tab.services.get("web") == "deploying"
        await self._report("web", "healthy" if deploying else "deploying")

    async def _connect(self) -> None:
        from wslessons import push

        await self._stack.aclose()
        self._url = background.find(self._name).url
        kinds = ((self.asking, push.PollingTab), (self.told, push.WebSocketTab))
        for side, kind in kinds:
            link = Link(self._url, keep=1, keep_bytes=0)
            side.link = await self._stack.enter_async_context(link)
            url = f"http://127.0.0.1:{side.link.port}"
            tab = kind(url, interval=self._interval.value)
            side.tab = await self._stack.enter_async_context(tab)
            side.show()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            with contextlib.suppress(UserError):  # no server now: the tabs say so
                if background.find(self._name).url != self._url:
                    await self._connect()
            self.asking.show()
            self.told.show()

    async def _report(self, service: str, status: str) -> None:
        from wslessons import push

        self.show_error("")
        async with push.Builds(self._url) as builds:
            await builds.report(service, status)

    def _on_interval(self, change: dict[str, Any]) -> None:
        if self.asking.tab is not None:
            self.asking.tab.interval = change["new"]


async def dashboard_panel(
    server: background.BackgroundServer, *, interval: float = 2, title: str = "dashboard"
) -> Dashboard:
    """Make a panel of two tabs of `server`'s fleet, in place of the one that had this title.

    Args:
        server: what `lab.serve_app` returned for `push.application(fleet)`.
        interval: how often the polling one asks, in seconds, 0.5 to 10; the panel changes it.
        title: what the panel is called; making it again closes the old one's tabs.

    Returns:
        The panel, which a cell shows as its last value.

    Raises:
        UserError: the server does not answer as a fleet does.
    """
    return await replace(Dashboard(title, server.name, interval))
