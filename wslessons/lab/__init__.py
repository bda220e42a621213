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
    from wslessons.lab.background import BackgroundApp as BackgroundApp
    from wslessons.lab.background import BackgroundServer as BackgroundServer
    from wslessons.lab.background import cluster as cluster
    from wslessons.lab.background import serve as serve
    from wslessons.lab.background import serve_app as serve_app
    from wslessons.lab.background import servers as servers
    from wslessons.lab.channelview import draw_channel as draw_channel
    from wslessons.lab.chatpanel import chat_panels as chat_panels
    from wslessons.lab.commands import memory as memory
    from wslessons.lab.commands import serving as serving
    from wslessons.lab.curves import cost_curves as cost_curves
    from wslessons.lab.dashboard import dashboard_panel as dashboard_panel
    from wslessons.lab.echopanel import echo_panel as echo_panel
    from wslessons.lab.kernel import logbook as logbook
    from wslessons.lab.kernel import setup as setup
    from wslessons.lab.pagepanel import FRAMES as FRAMES
    from wslessons.lab.pagepanel import HOSTS as HOSTS
    from wslessons.lab.pagepanel import page_panel as page_panel
    from wslessons.lab.pagepanel import page_url as page_url
    from wslessons.lab.plugpanel import plug_panel as plug_panel
    from wslessons.lab.prediction import predict as predict
    from wslessons.lab.progresscard import progress_card as progress_card
    from wslessons.lab.source import about as about
    from wslessons.lab.source import show as show
    from wslessons.lab.wireview import handshake as handshake
    from wslessons.lab.wireview import sequence as sequence
    from wslessons.lab.wireview import wire_table as wire_table

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

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if "ipykernel" in sys.modules:
    from wslessons.lab import kernel

    kernel.setup_in_kernel()
