"""A chat client that reads and writes at once, comes back after a break, and loses nothing.

    async with ChatClient("ws://127.0.0.1:8765", "alice") as chat:
        await chat.send("hello")  # returns when the server has it
        async for event in chat:
            print(event)

Iterating gives the room's events, each exactly once and in order: `wslessons.chat.events.Message`,
`Joined` and `Left`; or a `Missed` that says how many are gone. Between them come `Welcome`,
`Roster` and `Error`, and what happens to the connection: `Connected`, `Disconnected`, `Retrying`.
What this client said itself is not among them; `send` returns its acknowledgement.

With a server that knows only plain text, the client has no offsets: it comes back, but can't
resume (`Missed` with `count` None says so), and `send` returns None, since nobody acknowledges.
A server that ignores the subprotocol on offer is taken for one of these.

From a shell: ``wslessons client ws://127.0.0.1:8765 --name alice``.

The parts: `chatclient` is the client, `connections` gives it one connection after another, `retry`
says when and whether, `sessions` speaks the two protocols without any I/O, `inbox` and `outbox`
hold what is not yet taken and not yet acknowledged; `terminal` and `stdin` are the shell's client.
"""

from wslessons.client.chatclient import ChatClient
from wslessons.client.inbox import Connected, Disconnected, Notice, Retrying
from wslessons.client.outbox import ChatClosed, Refused, Unconfirmed
from wslessons.client.retry import full_jitter

__all__ = [
    "ChatClient",
    "ChatClosed",
    "Connected",
    "Disconnected",
    "Notice",
    "Refused",
    "Retrying",
    "Unconfirmed",
    "full_jitter",
]
