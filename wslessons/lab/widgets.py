"""What our panels are composed of: a transcript, and a way from a button to the kernel's loop."""

from __future__ import annotations

import asyncio
import html
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import ipywidgets

from wslessons.errors import UserError
from wslessons.lab.kernel import running_loop

__all__ = ["Dispatcher", "Panel", "Transcript"]

COLOURS = {"in": "#1565c0", "out": "#2e7d32", "note": "#757575", "error": "#c62828"}
ARROWS = {"in": "&larr;", "out": "&rarr;", "note": "&middot;", "error": "!"}


class Transcript:
    """A log inside a panel: escaped, bounded, scrolled to its end, and sent to the page at most
    twenty times a second, however fast the lines come.

    Args:
        keep: how many lines it holds; the oldest go first.
        height: of the box, in CSS.
    """

    def __init__(self, keep: int = 200, height: str = "180px") -> None:
        self.lines: deque[tuple[str, str]] = deque(maxlen=keep)
        self._loop = running_loop()
        self._refresh: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        self._html = ipywidgets.HTML()
        # In a reversed column the browser keeps the end in view by itself.
        self.widget = ipywidgets.Box(
            [self._html],
            layout=ipywidgets.Layout(
                display="flex",
                flex_flow="column-reverse",
                height=height,
                overflow="auto",
                border="1px solid var(--jp-border-color1, #bdbdbd)",
                padding="4px 8px",
            ),
        )
        self.widget.add_class("wslessons-transcript")

    def add(self, kind: str, text: str) -> None:
        """Append a line of `kind` ``in``, ``out``, ``note`` or ``error``; `text` may be hostile.

        A line is cut at 500 characters. Call it on the loop on which the panel was made.
        """
        self.lines.append((kind, text if len(text) <= 500 else text[:499] + "…"))
        self._more.set()
        if self._refresh is None:
            self._refresh = self._loop.call_later(0.05, self._show)

    async def wait_for(self, text: str) -> str:
        """Return the newest line that holds `text`, as soon as there is one."""
        while True:
            self._more.clear()
            for _, line in reversed(self.lines):
                if text in line:
                    return line
            await self._more.wait()

    def _show(self) -> None:
        self._refresh = None
        self._html.value = "".join(
            f'<div style="color:{COLOURS[kind]};white-space:pre-wrap;overflow-wrap:anywhere;'
            f'line-height:1.4;font-family:monospace">{ARROWS[kind]} {html.escape(line)}</div>'
            for kind, line in self.lines
        )


class Dispatcher:
    """Run coroutines on the kernel's loop from widget callbacks, wherever those are called.

    JupyterLab may call a widget's callback in another thread, where no loop runs; so the loop is
    captured when the panel is made, in a cell. Whatever a coroutine raises is shown through
    `show_error` in one line.
    """

    def __init__(self, show_error: Callable[[str], None]) -> None:
        self._loop = running_loop()
        self._show_error = show_error

    def run(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Start `coroutine` on the captured loop."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[None]) -> None:
        if future.cancelled() or (error := future.exception()) is None:
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._loop.call_soon_threadsafe(self._show_error, text)


class Panel:
    """What every panel shows: its widgets in a live notebook, and static text elsewhere.

    Args:
        title: the panel's name, and its plain text if there is no other.
        children: the widgets, from top to bottom.
        width: how wide it may become, in CSS.
        text: what a text-only page and nbval get; the same at each run, so it can be compared.
        picture: HTML for a page without a kernel, such as a saved one.
    """

    def __init__(
        self,
        title: str,
        children: list[ipywidgets.Widget],
        width: str = "640px",
        *,
        text: str = "",
        picture: str = "",
    ) -> None:
        self.title = title
        self._text = text or f"[{title}]"
        self._picture = picture or f"<b>{html.escape(title)}</b>"
        self.widget = ipywidgets.VBox(
            children,
            layout=ipywidgets.Layout(
                border="1px solid var(--jp-border-color2, #e0e0e0)",
                padding="8px",
                margin="4px",
                width="auto",
                max_width=width,
            ),
        )
        self.widget.add_class("wslessons-panel")

    def bundle(self) -> dict[str, Any]:
        """Return the MIME bundle for IPython: the same text at each run, so it can be compared."""
        return {
            "text/plain": self._text,
            "text/html": (
                '<div style="border:1px solid #bdbdbd;padding:8px;max-width:640px">'
                f"{self._picture}<br><i>Run this cell in JupyterLab to use the panel.</i></div>"
            ),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget.model_id,
            },
        }
