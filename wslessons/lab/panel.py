"""What panels are composed of: a frame around widgets, and a way from them to the kernel's loop.

| class | what it adds |
|---|---|
| `Panel` | a frame around widgets; fixed text for nbval, a static picture for a saved page |
| `LivePanel` | buttons that start coroutines, and a name under which one of its kind lives |
| `ClientPanel` | a server to talk to, one connection at a time, a transcript, a line to type into |
"""

from __future__ import annotations

import asyncio
import atexit
import html
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from websockets import ClientConnection

from wslessons.errors import UserError, extra
from wslessons.lab import background
from wslessons.lab.kernel import running_loop
from wslessons.lab.theme import FRAME, GREEN, GREY, RED, SHADES

with extra("lab"):
    import ipywidgets


__all__ = ["ClientPanel", "LivePanel", "Panel", "Transcript", "replace"]

ARROWS = {"in": "&larr;", "out": "&rarr;", "wait": "&hellip;", "note": "&middot;", "error": "!"}

GONE = "The kernel behind this panel is gone: run its cell again."
"""What a panel says when nobody would hear its buttons any more."""

_ENDED = "jupyter-widgets-disconnected"
# The page keeps a panel whose kernel is gone. Where it notices, it marks it with this class; of a
# kernel that is shut down it takes no notice, so we mark our panels ourselves as we end.

STYLE = f"""<style>
.wslessons-panel .widget-hbox {{ flex-wrap: wrap; align-items: center; }}
.wslessons-panel .widget-html {{ height: auto; }}
.wslessons-panel .widget-html-content {{ line-height: 1.5; }}
.wslessons-gone {{ display: none; }}
.wslessons-panel.{_ENDED}::before, .wslessons-gone.{_ENDED}::before {{ content: none; }}
.wslessons-panel.{_ENDED} > * {{ display: none; }}
.wslessons-panel.{_ENDED} > .wslessons-gone {{ display: block; }}
</style>"""

_shown: weakref.WeakSet[ipywidgets.VBox] = weakref.WeakSet()


@atexit.register
def _mark_as_gone() -> None:
    for widget in _shown:
        widget.add_class(_ENDED)


class Panel:
    """What every panel shows: its widgets in a live notebook, and static text elsewhere.

    Args:
        title: the panel's name, and its plain text if there is no other.
        width: how wide it may become, in CSS.
        text: what a text-only page and nbval get; the same at each run, so it can be compared.
        picture: HTML for a page without a kernel, such as a saved one.
    """

    def __init__(
        self, title: str, *, width: str = "640px", text: str = "", picture: str = ""
    ) -> None:
        self.title = title
        self._plain = text or f"[{title}]"
        self._static = picture or f"<b>{html.escape(title)}</b>"
        self.widget = ipywidgets.VBox(
            layout=ipywidgets.Layout(
                border=FRAME, padding="8px", margin="4px", width="auto", max_width=width
            )
        )
        self.widget.add_class("wslessons-panel")
        _shown.add(self.widget)

    def fill(self, *children: ipywidgets.Widget) -> None:
        """Put the widgets into the panel, from top to bottom.

        Args:
            children: from top to bottom.
        """
        gone = ipywidgets.HTML(f"{STYLE}<b>{html.escape(self.title)}</b><br><i>{GONE}</i>")
        gone.add_class("wslessons-gone")
        self.widget.children = [*children, gone]

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {
            "text/plain": self._plain,
            "text/html": (
                '<div style="border:1px solid #bdbdbd;padding:8px;max-width:640px">'
                f"{self._static}<br><i>Run this cell to use the panel.</i></div>"
            ),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.widget.model_id,
            },
        }


class LivePanel(Panel):
    """A panel whose widgets start coroutines on the kernel's loop, and which can be closed.

    JupyterLab may call a widget's callback in another thread, where no loop runs; so the loop is
    captured when the panel is made, in a cell.

    Args:
        title: the panel's name.
        width: how wide it may become, in CSS.
    """

    def __init__(self, title: str, *, width: str = "640px") -> None:
        super().__init__(title, width=width)
        self._loop = running_loop()
        self._error = ipywidgets.HTML()
        self._busy: set[str] = set()

    async def open(self) -> None:
        """Begin what the panel shows."""

    async def close(self) -> None:
        """End all that the panel has begun. Idempotent."""

    def show_error(self, text: str) -> None:
        """Show what went wrong, in a line of the panel; without text, take it away.

        Args:
            text: a sentence.
        """
        self._error.value = f'<span style="color:{RED}">{html.escape(text)}</span>'

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Start `coroutine` on the kernel's loop; whatever it raises is shown in one line.

        Args:
            coroutine: not awaited yet.

        Returns:
            What is done when it has ended; it may be cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[None]) -> None:
        if future.cancelled() or (error := future.exception()) is None:
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._loop.call_soon_threadsafe(self.show_error, text)

    def button(
        self, text: str, action: Callable[[], Coroutine[Any, Any, None]], **traits: Any
    ) -> ipywidgets.Button:
        """Make a button that starts `action`; clicks while it still runs do nothing.

        Args:
            text: on the button.
            action: called with each click.
            traits: whatever else `ipywidgets.Button` takes.

        Returns:
            The widget.
        """

        def click(_: ipywidgets.Button) -> None:
            if text not in self._busy:
                self._busy.add(text)
                self.start(action()).add_done_callback(lambda _: self._busy.discard(text))

        layout = ipywidgets.Layout(width="auto")
        button = ipywidgets.Button(description=text, layout=layout, **traits)
        button.on_click(click)
        return button


P = TypeVar("P", bound=LivePanel)

_open: background.Names[LivePanel] = background.Names(lambda panel: panel.close())


async def replace(panel: P) -> P:
    """Open `panel`, after closing the one of its kind that had its title.

    Raises what opening raises; the panel is closed again then.

    Args:
        panel: not open yet.

    Returns:
        The same, open.
    """

    async def start() -> LivePanel:
        try:
            await panel.open()
        except BaseException:
            await panel.close()
            raise
        return panel

    await _open.replace(f"{type(panel).__name__} {panel.title}", start)
    return panel


class Transcript:
    """A log inside a panel: escaped, bounded, scrolled to its end, and sent to the page at most
    twenty times a second, however fast the lines come.

    Args:
        keep: how many lines it holds; the oldest go first.
        height: of the box, in CSS.
    """

    def __init__(self, keep: int = 200, height: str = "180px") -> None:
        self.lines: deque[list[str]] = deque(maxlen=keep)
        """Pairs of a line's kind and its text."""
        self._loop = running_loop()
        self._refresh: asyncio.TimerHandle | None = None
        self._more = asyncio.Event()
        # Whoever has no mouse comes to it by Tab, and scrolls the box with the arrow keys.
        self._html = ipywidgets.HTML(tabbable=True)
        # In a reversed column the browser keeps the end in view by itself.
        self.widget = ipywidgets.Box(
            [self._html],
            layout=ipywidgets.Layout(
                display="flex",
                flex_flow="column-reverse",
                height=height,
                overflow="auto",
                border=FRAME,
                padding="4px 8px",
            ),
        )
        self.widget.add_class("wslessons-transcript")

    def add(self, kind: str, text: str) -> list[str]:
        """Append a line, cut at 500 characters. Call it on the loop on which the panel was made.

        Args:
            kind: ``in``, ``out``, ``wait``, ``note`` or ``error``.
            text: may be hostile.

        Returns:
            The line, for `turn`.
        """
        line = [kind, text if len(text) <= 500 else text[:499] + "…"]
        self.lines.append(line)
        self._changed()
        return line

    def turn(self, line: list[str], kind: str) -> None:
        """Let a line be of another kind now, as one that was waiting and has been sent.

        Args:
            line: what `add` returned.
            kind: as for `add`.
        """
        line[0] = kind
        self._changed()

    async def wait_for(self, text: str) -> str:
        """Return the newest line that holds `text`, as soon as there is one.

        Args:
            text: a part of the line.

        Returns:
            The whole line.
        """
        while True:
            self._more.clear()
            for _, line in reversed(self.lines):
                if text in line:
                    return line
            await self._more.wait()

    def _changed(self) -> None:
        self._more.set()
        if self._refresh is None:
            self._refresh = self._loop.call_later(0.05, self._show)

    def _show(self) -> None:
        self._refresh = None
        self._html.value = "".join(
            f'<div style="color:{SHADES[kind]};white-space:pre-wrap;overflow-wrap:anywhere;'
            f'line-height:1.4;font-family:monospace">{ARROWS[kind]} {html.escape(line)}</div>'
            for kind, line in self.lines
        )


class ClientPanel(LivePanel):
    """A panel with a connection to a server of this kernel, or to any other.

    `connect` and `close` may be called from cells and from buttons, at once and again: they take
    turns, so there is one connection at most.

    Args:
        title: what the panel is called.
        server: of this kernel, or the URL of any.
        keep: lines of the transcript.
        height: of the transcript, in CSS.
    """

    def __init__(
        self,
        title: str,
        server: background.BackgroundServer | str,
        *,
        keep: int = 200,
        height: str = "180px",
    ) -> None:
        super().__init__(title)
        self._server = server
        self._connection: ClientConnection | None = None
        self._turn = asyncio.Lock()
        self._state = ipywidgets.HTML()
        self.transcript = Transcript(keep, height)
        self.heading = ipywidgets.HBox(
            [ipywidgets.HTML(f"<b>{html.escape(title)}</b>"), self._state]
        )

    @property
    def connected(self) -> bool:
        """Whether the panel's connection is open, as far as this end knows."""
        return self._connection is not None

    async def _enter(self) -> None:
        """Open the connection; there is none now."""
        raise NotImplementedError

    async def _leave(self) -> None:
        """Close the connection, if there is one."""
        raise NotImplementedError

    async def open(self) -> None:
        """Open the panel's connection for the first time."""
        await self.connect()

    async def connect(self) -> None:
        """Open the panel's connection, in place of the one that it has.

        Raises:
            UserError: the server can't be reached, or refuses.
        """
        async with self._turn:
            await self._leave()
            await self._enter()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        async with self._turn:
            await self._leave()

    async def send(self, text: str) -> None:
        """Send what was typed.

        Args:
            text: the line.
        """
        raise NotImplementedError

    def entry(self, placeholder: str) -> ipywidgets.Text:
        """Make a line to type into; Enter sends it.

        Args:
            placeholder: what stands in it while it is empty.

        Returns:
            The widget.
        """

        def entered(change: dict[str, Any]) -> None:
            if text := change["new"]:
                entry.value = ""
                self.start(self.send(text))

        layout = ipywidgets.Layout(width="auto")
        entry = ipywidgets.Text(placeholder=placeholder, continuous_update=False, layout=layout)
        entry.observe(entered, names="value")
        return entry

    def url(self) -> str:
        """Return where the server listens now.

        It is found by its name, so that a panel finds the server that took an old one's place.

        Raises:
            UserError: no server of that name runs.
        """
        if isinstance(self._server, str):
            return self._server
        return background.find(self._server.name).url

    def show_error(self, text: str) -> None:
        """Add what went wrong to the transcript."""
        self.transcript.add("error", text)

    def show_state(self, text: str, colour: str = "") -> None:
        """Show in the heading how the connection is; green or grey, if no colour is given.

        Args:
            text: a few words.
            colour: in CSS.
        """
        colour = colour or (GREEN if self.connected else GREY)
        self._state.value = (
            f'<span style="color:{colour};margin-left:12px">&#9679; {html.escape(text)}</span>'
        )
