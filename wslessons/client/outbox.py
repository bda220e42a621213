"""What was said and is not acknowledged yet: kept, so that it can be repeated under the same id."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque

from wslessons.chat.events import Ack
from wslessons.errors import UserError

__all__ = ["ChatClosed", "Outbox", "Outgoing", "Refused", "Unconfirmed"]


class ChatClosed(UserError):
    """The client is closed; the message was not sent."""

    def __init__(self) -> None:
        super().__init__("the chat is closed: the message was not sent.")


class Unconfirmed(UserError):
    """The message was sent, and nobody can know whether it arrived.

    Args:
        why: why there will be no answer, a clause.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}: the message may or may not have arrived.")


class Refused(UserError):
    """The server said no to a message; `code` is its word for why.

    Args:
        code: the server's word for why, such as ``rate``.
        text: its sentence, without the full stop.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"the server refused the message: {text}.")
        self.code = code


class Outgoing:
    """A message on its way, and the future for its acknowledgement.

    Args:
        text: what is said.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # Random, and not counted: ids are shown to the room, and somebody who could guess the next
        # one could pretend that it was said already.
        self.id = secrets.token_hex(8)
        self.tries = 0
        """Connections it was written to."""
        self.again = False
        """Whether it is to be written once more to the same connection."""
        self.acknowledged: asyncio.Future[Ack | None] = asyncio.get_running_loop().create_future()


class Outbox:
    """Messages in the order in which they were said.

    Args:
        limit: how many may be unacknowledged before `add` waits.
        tries: how many connections a message is written to before it is given up.
    """

    def __init__(self, limit: int, tries: int) -> None:
        self._pending: dict[str, Outgoing] = {}
        self._unsent: deque[Outgoing] = deque()
        self._tries = tries
        self._slots = asyncio.Semaphore(limit)
        self._more = asyncio.Event()
        self._closed = False

    def __contains__(self, id: str) -> bool:
        return id in self._pending

    def __len__(self) -> int:
        return len(self._pending)

    async def add(self, out: Outgoing) -> None:
        """Put a message at the end, once there is room.

        Args:
            out: the message.

        Raises:
            ChatClosed: nothing is taken any more.
        """
        await self._slots.acquire()
        if self._closed:
            self._slots.release()
            raise ChatClosed
        self._pending[out.id] = out
        self._unsent.append(out)
        self._more.set()

    async def next(self) -> Outgoing:
        """Return the next message to write, and count the try, unless it is `again`."""
        while True:
            while self._unsent:
                out = self._unsent.popleft()
                if out.id in self._pending:
                    if not out.again:
                        out.tries += 1
                    out.again = False
                    return out
            self._more.clear()
            await self._more.wait()

    def rewind(self) -> None:
        """Begin again with the oldest unacknowledged message, as on a new connection."""
        for out in list(self._pending.values()):
            if out.tries >= self._tries:
                self.fail(out.id, Unconfirmed(f"no acknowledgement on {out.tries} connections"))
        for out in self._pending.values():
            out.again = False
        self._unsent = deque(self._pending.values())
        self._more.set()

    def ask_again(self) -> None:
        """Repeat what was written to this connection: its answers may be among what was missed."""
        waiting = {out.id for out in self._unsent}
        repeats = [out for out in self._pending.values() if out.tries and out.id not in waiting]
        for out in repeats:
            out.again = True
        self._unsent.extendleft(reversed(repeats))
        self._more.set()

    def withdraw(self, out: Outgoing) -> None:
        """Forget a message that was not written yet; one that was can't be called back.

        Args:
            out: the message.
        """
        if not out.tries:
            self._settle(out.id)

    def confirm(self, id: str, ack: Ack | None) -> None:
        """Settle a message; one that is not pending is none of ours, or settled already.

        Args:
            id: the message's.
            ack: the server's acknowledgement; None where the protocol has none.
        """
        if (out := self._settle(id)) and not out.acknowledged.done():
            out.acknowledged.set_result(ack)

    def fail(self, id: str, error: UserError) -> None:
        """Settle a message with an error.

        Args:
            id: the message's.
            error: what its sender gets.
        """
        if (out := self._settle(id)) and not out.acknowledged.done():
            out.acknowledged.set_exception(error)

    def doubt(self, why: str) -> None:
        """Give up the messages that were written: repeating them could say them twice.

        Args:
            why: the sentence that their senders get.
        """
        for out in [out for out in self._pending.values() if out.tries]:
            self.fail(out.id, Unconfirmed(why))

    def close(self, why: str) -> None:
        """Take no more, and settle all: written ones are in doubt, the others were not sent.

        Args:
            why: the sentence that their senders get.
        """
        self._closed = True
        self.doubt(why)
        for id in list(self._pending):
            self.fail(id, ChatClosed())

    def _settle(self, id: str) -> Outgoing | None:
        if (out := self._pending.pop(id, None)) is not None:
            self._slots.release()
        return out
