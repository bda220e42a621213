"""The chat in a terminal: lines come in above the prompt while you type; also for pipes.

Between a terminal's two ends stands prompt_toolkit, which keeps the half-typed line below what
arrives. With a pipe at either end there is no prompt: lines are read as they come, and printed one
by one; what is about the connection goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import io
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial

from websockets.frames import Close

from wslessons.chat.codecs import RATE, TEXT, Record
from wslessons.chat.events import Error, Joined, Left, Message, Missed, Roster, Welcome
from wslessons.client.chatclient import ChatClient
from wslessons.client.inbox import Connected, Disconnected, Event, Notice, Retrying
from wslessons.client.outbox import ChatClosed
from wslessons.client.retry import full_jitter
from wslessons.client.stdin import piped_lines
from wslessons.errors import UserError, need, print_line

__all__ = ["add_arguments", "render", "run", "visible"]

ATTEMPTS = 5
"""Attempts in a row that may fail before the command gives up, after some 6 seconds."""
SOON = partial(full_jitter, base=0.5, cap=5.0)
"""Delays for one person who is watching, and who need not be spread over much time."""
SHOWN = 60
"""Characters of a line that is quoted in a note."""
LATE = 3.0
"""Seconds after which a line that is not acknowledged yet is a note."""
GRACE = 2.0
"""Seconds that what was typed last has to be acknowledged before the connection is closed."""


def visible(text: str) -> str:
    r"""Return `text` on one line, with whatever could steer a terminal written out.

    >>> print(visible("\x1b[2Jbye\n[system] forged"))
    \x1b[2Jbye\n[system] forged

    Args:
        text: whatever others may have written.

    Returns:
        The text, safe to print.
    """
    # Joiners stay, as emoji are made with them; the rest of what is not printable has no business
    # here: controls, line ends, and marks that turn the direction of the text around them.
    return "".join(
        c if c.isprintable() or c in "\u200c\u200d\xa0" else c.encode("unicode_escape").decode()
        for c in text
    )


def _whole(text: str) -> str:
    """Return `text` with halves of surrogate pairs joined, and lone ones as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def render(event: Event) -> str:
    """Return the line for an event of the room, in both protocols that of the plain-text one.

    Args:
        event: of the chat, or of the client itself.

    Returns:
        One line.
    """
    match event:
        case Message() | Joined() | Left():
            line = TEXT.encode(Record(event))
        case Missed() | Welcome() | Roster() | Error():
            line = TEXT.answer(event)
        case Notice():
            return visible(event.text)
        case _:
            return ""
    return visible(line.decode())


def status(event: Event) -> str:
    """Return the line for what happened to the connection, or an empty one for other events."""
    match event:
        case Connected(code, phrase, subprotocol):
            kind = subprotocol or "plain text: what a broken connection misses is lost"
            return f"HTTP {code} {visible(phrase)}; {kind}"
        case Disconnected(1006):
            return "the connection broke: 1006, no close frame came"
        case Disconnected(code, reason):
            return f"closed: {visible(str(Close(code, reason)))}"
        case Retrying(delay, why):
            return f"{why and why + ' '}next attempt in {delay:.1f} s"
        case _:
            return ""


class Talk:
    """A client, where its lines come from, and where they go.

    Args:
        client: the client, entered.
        note: called with each line about the connection.
        interactive: whether somebody types: then one line need not wait for the other's
            acknowledgement, and what fails is a note.
    """

    def __init__(
        self, client: ChatClient, note: Callable[[str], None], *, interactive: bool
    ) -> None:
        self._client, self._note, self._interactive = client, note, interactive
        self._ending = 0
        self._said = self._unsaid = 0
        self._arrived = True
        self._closed = False
        self._roster = asyncio.Event()

    async def run(self, lines: AsyncIterator[str]) -> None:
        """Talk until the lines or the server end it.

        Args:
            lines: what to say, one by one.

        Raises:
            UserError: the server ended it and was not done, or lines were not said.
        """
        showing = asyncio.create_task(self._show())
        sending = asyncio.create_task(self._send(lines))
        try:
            with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C without a prompt
                await asyncio.wait([showing, sending], return_when=asyncio.FIRST_COMPLETED)
                if showing.done() and not showing.exception() and not self._interactive:
                    # A line that is in the pipe already is one that will not be said.
                    await asyncio.wait([sending], timeout=GRACE)
            if not showing.done():
                self._arrived = await self._client.close()
            await showing
        finally:
            for task in (showing, sending):
                task.cancel()
            await asyncio.wait([showing, sending])
        if not sending.cancelled() and (error := sending.exception()):
            raise error
        if self._unsaid:
            lines_were = "1 line was" if self._unsaid == 1 else f"{self._unsaid} lines were"
            more = "; the rest of the input was not read" if self._closed else ""
            raise UserError(f"{lines_were} not said, or nobody can know whether{more}.")
        if self._said and not self._arrived:
            raise UserError("the server did not answer: the last lines may not have arrived.")
        if self._ending == 1006:
            # Our own wish to go is fulfilled all the same, and everything was said before.
            self._note("the server did not answer the close frame")

    async def _show(self) -> None:
        async for event in self._client:
            if line := status(event):
                self._note(line)
            elif line := render(event):
                print_line(line)
            if isinstance(event, Disconnected):
                self._ending = event.code
            elif isinstance(event, Roster) or (
                isinstance(event, Notice) and event.text.startswith("[system] here now: ")
            ):
                self._roster.set()
            elif isinstance(event, Error) and event.code == RATE and not self._interactive:
                # In plain text nothing else tells that a line which was written was not said.
                self._unsaid += 1

    async def _send(self, lines: AsyncIterator[str]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            async for line in lines:
                if not (text := _whole(line).strip()):
                    continue
                if text == "/quit":
                    return
                if text == "/who":
                    self._roster.clear()
                    await self._client.who()
                    if not self._interactive:
                        # The last line of a pipe is followed by our close frame, after which the
                        # server can answer nothing any more.
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(GRACE):
                                await self._roster.wait()
                elif self._interactive:
                    task = asyncio.create_task(self._say(text))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    await self._say(text)
                    if self._closed:
                        return
        finally:
            if tasks:
                _, late = await asyncio.wait(set(tasks), timeout=GRACE)
                for task in late:
                    task.cancel()

    async def _say(self, text: str) -> None:
        """Say one line; a line that can't be said is told and counted, and the next ones go on."""
        self._unsaid += 1
        shown = repr(visible(text if len(text) <= SHOWN else f"{text[:SHOWN]}..."))
        late = asyncio.get_running_loop().call_later(
            LATE, self._note, f"{shown}: not acknowledged yet"
        )
        try:
            await self._client.send(text)
        except (UserError, ValueError) as exc:
            self._note(f"{shown}: {exc}")
            self._closed = isinstance(exc, ChatClosed)
            if self._interactive:
                self._unsaid -= 1  # Who typed it has seen the note.
        else:
            self._unsaid -= 1
            self._said += 1
        finally:
            late.cancel()


async def typed_lines() -> AsyncGenerator[str]:
    """Yield what is typed at a prompt, until Ctrl-D or Ctrl-C."""
    prompt_toolkit = need("prompt_toolkit", "client")
    session = prompt_toolkit.PromptSession()
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield await session.prompt_async("> ")


def can_prompt() -> bool:
    """Whether somebody types here, on a terminal that can keep a prompt below what arrives."""
    # Each is None where a service manager, or pythonw, starts the program without it.
    return (
        sys.stdin is not None
        and sys.stdin.isatty()
        and sys.stdout is not None
        and sys.stdout.isatty()
        and os.environ.get("TERM") != "dumb"
    )


async def talk(url: str, name: str, *, json: bool) -> None:
    """Run the terminal's client.

    Args:
        url: where the chat is.
        name: who we are.
        json: whether to ask for the subprotocol chat.v1+json.

    Raises:
        UserError: there is no connection, it ended badly, or lines were not said.
    """
    interactive = can_prompt()
    with contextlib.ExitStack() as stack:
        if interactive:
            need("prompt_toolkit", "client")
            shell = need("prompt_toolkit.patch_stdout", "client")
        # A server of plain text that welcomes nobody is not waited for long.
        client = ChatClient(
            url,
            name,
            text=not json,
            reconnect_delays=SOON,
            attempts=ATTEMPTS,
            timeout=5 if json else 2,
        )
        async with client:
            if interactive:
                stack.enter_context(shell.patch_stdout())

            def note(line: str) -> None:
                if interactive:
                    print(f"* {line}", flush=True)
                elif sys.stderr is not None:
                    with contextlib.suppress(OSError):  # Nobody is left to be told.
                        print(f"* {line}", flush=True, file=sys.stderr)

            lines = typed_lines() if interactive else piped_lines()
            async with contextlib.aclosing(lines):
                await Talk(client, note, interactive=interactive).run(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``wslessons client``.

    Args:
        parser: of the command.
    """
    parser.add_argument("url", metavar="URL", help="such as ws://127.0.0.1:8765")
    parser.add_argument("--name", help="who you are (default: your login name)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="ask for the subprotocol chat.v1+json, which resumes after a broken connection",
    )


def login_name() -> str:
    """Return the user's login name, or "guest"."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "guest"


def run(args: argparse.Namespace) -> int:
    """Run ``wslessons client`` and return its exit code.

    Args:
        args: the words of the command line.

    Returns:
        0, when the input or the server has ended the talk.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    asyncio.run(talk(args.url, _whole(args.name or login_name()), json=args.json))
    return 0
