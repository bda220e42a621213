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
    from wslessons.lab.background import (
        BackgroundApp,
        BackgroundServer,
        cluster,
        serve,
        serve_app,
        servers,
    )
    from wslessons.lab.channelview import draw_channel
    from wslessons.lab.chatpanel import chat_panels
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

_HOME: dict[str, str] = {
    name: module
    for module, names in {
        "background": "BackgroundApp BackgroundServer cluster serve serve_app servers",
        "channelview": "draw_channel",
        "chatpanel": "chat_panels",
        "commands": "memory serving",
        "curves": "cost_curves",
        "dashboard": "dashboard_panel",
        "echopanel": "echo_panel",
        "kernel": "logbook setup",
        "pagepanel": "FRAMES HOSTS page_panel page_url",
        "plugpanel": "plug_panel",
        "prediction": "predict",
        "progresscard": "progress_card",
        "source": "about show",
        "wireview": "handshake sequence wire_table",
    }.items()
    for name in names.split()
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
