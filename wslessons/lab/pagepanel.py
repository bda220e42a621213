"""A web page of a server in the kernel, shown in the notebook, wherever the kernel runs."""

from __future__ import annotations

import html
import os
from urllib.parse import urlsplit

from wslessons.errors import extra
from wslessons.lab import background
from wslessons.lab.panel import Panel

with extra("lab"):
    import ipywidgets


__all__ = ["FRAMES", "HOSTS", "PagePanel", "page_panel", "page_url"]

FRAMES = ("http://127.0.0.1:*", "http://localhost:*")
"""The origins of a JupyterLab on this machine, for `wslessons.web.application(frames=...)`."""

PREFIX = "JUPYTERHUB_SERVICE_PREFIX"

HOSTS = ("*",) if PREFIX in os.environ else ()
"""The names that a server here answers to, for `wslessons.web.application(hosts=...)`. On a hub it
is any: the name there is the hub's, which has seen to it who may come this far."""


def page_url(server: background.BackgroundServer, path: str = "/") -> str:
    """Find the address at which your browser reaches a page of a server here.

    On a JupyterHub, and so on Binder, the kernel runs on another machine, and the way leads through
    jupyter-server-proxy there: ``/user/NAME/proxy/PORT/``. The hub names the prefix in the
    environment of everything that it starts.

    Args:
        server: a server of this kernel that answers HTTP.
        path: the page's address on it.

    Returns:
        A whole URL, or on a hub a path of the hub's.

    Source: https://jupyter-server-proxy.readthedocs.io/en/latest/arbitrary-ports-hosts.html
    """
    prefix = os.environ.get(PREFIX)
    if prefix is None:
        return server.url + path
    return f"{prefix.rstrip('/')}/proxy/{urlsplit(server.url).port}{path}"


class PagePanel(Panel):
    """A link that opens a page in a tab, and the page in a frame; made by `page_panel`.

    Args:
        url: the page's.
        title: what the panel is called.
        height: of the frame in pixels, 0 for none.
    """

    def __init__(self, url: str, title: str, height: int) -> None:
        super().__init__(title, width="900px" if height else "640px")
        self.url = url
        address, name = html.escape(self.url), html.escape(title)
        link = (
            f'<b>{name}</b> &middot; <a href="{address}" target="_blank" rel="noopener"'
            ' style="text-decoration:underline">open in a tab</a>'
        )
        frame = (
            f'<iframe src="{address}" title="{name}" style="width:100%;height:{height}px;'
            'border:1px solid var(--jp-border-color2, #e0e0e0)"></iframe>'
        )
        children: list[ipywidgets.Widget] = [ipywidgets.HTML(link)]
        if height:
            children.append(ipywidgets.HTML(frame, layout=ipywidgets.Layout(width="auto")))
        self.fill(*children)


def page_panel(
    server: background.BackgroundServer,
    path: str = "/",
    title: str = "page",
    *,
    height: int = 0,
    host: str | None = None,
) -> PagePanel:
    """Show a page of `server` in the notebook: a link to it, and a frame with it inside.

    Args:
        server: a server of this kernel that answers HTTP.
        path: the page's address on it, with a query if need be.
        title: what the panel is called.
        height: of the frame, in pixels; 0 for the link alone, since browsers keep the cookies of
            a page in a frame apart.
        host: another name of this machine, such as ``localhost``, which for a browser is another
            site than 127.0.0.1. On a hub it changes nothing: there every page is the hub's.

    Returns:
        The panel, which a cell shows as its last value.
    """
    url = page_url(server, path)
    if host is not None:
        url = url.replace("://127.0.0.1:", f"://{host}:")
    return PagePanel(url, title, height)
