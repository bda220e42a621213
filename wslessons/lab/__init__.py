"""What exists only because we are in a notebook: background servers, panels, pictures.

The first cell of each lesson is ``from wslessons import lab``. In a kernel that import also runs
`setup`, once. The names below are imported when they are first used, so that the command line,
which lives next door, needs no Jupyter.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wslessons.lab.apps import BackgroundApp, serve_app
    from wslessons.lab.background import BackgroundServer, serve, servers
    from wslessons.lab.channelview import draw_channel
    from wslessons.lab.chatpanel import chat_panels
    from wslessons.lab.clusters import cluster
    from wslessons.lab.commands import memory, serving
    from wslessons.lab.curves import cost_curves
    from wslessons.lab.dashboard import dashboard_panel
    from wslessons.lab.echopanel import echo_panel
    from wslessons.lab.kernel import logbook, setup
    from wslessons.lab.pagepanel import FRAMES, HOSTS, page_panel, page_url
    from wslessons.lab.plugpanel import plug_panel
    from wslessons.lab.prediction import predict
    from wslessons.lab.progresscard import progress_card
    from wslessons.lab.source import about, show
    from wslessons.lab.wireview import handshake, sequence, wire_table

_HOME = {
    "BackgroundApp": "apps",
    "about": "source",
    "cost_curves": "curves",
    "dashboard_panel": "dashboard",
    "serve_app": "apps",
    "chat_panels": "chatpanel",
    "cluster": "clusters",
    "memory": "commands",
    "draw_channel": "channelview",
    "BackgroundServer": "background",
    "echo_panel": "echopanel",
    "handshake": "wireview",
    "logbook": "kernel",
    "FRAMES": "pagepanel",
    "HOSTS": "pagepanel",
    "page_panel": "pagepanel",
    "page_url": "pagepanel",
    "plug_panel": "plugpanel",
    "predict": "prediction",
    "progress_card": "progresscard",
    "sequence": "wireview",
    "serve": "background",
    "serving": "commands",
    "servers": "background",
    "setup": "kernel",
    "show": "source",
    "wire_table": "wireview",
}

__all__ = [
    "FRAMES",
    "HOSTS",
    "BackgroundApp",
    "BackgroundServer",
    "about",
    "chat_panels",
    "cluster",
    "cost_curves",
    "dashboard_panel",
    "draw_channel",
    "echo_panel",
    "handshake",
    "logbook",
    "memory",
    "page_panel",
    "page_url",
    "plug_panel",
    "predict",
    "progress_card",
    "sequence",
    "serve",
    "serve_app",
    "servers",
    "serving",
    "setup",
    "show",
    "wire_table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if "ipykernel" in sys.modules:
    from wslessons.lab import kernel

    kernel.setup_in_kernel()
