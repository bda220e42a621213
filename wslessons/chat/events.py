"""The events of the chat, as the subprotocol `chat.v1+json` has them.

A client that asks for no subprotocol gets plain text, one line a message; that protocol can be
read off `codecs.TextCodec`. A client that asks for ``chat.v1+json`` (RFC 6455, section
1.9) exchanges the JSON objects below, one a text message, told apart by their member ``type``.

From the client, `hello` first and within the server's name timeout:

| type | members | meaning |
|---|---|---|
| `hello` | `name`, `since`, `epoch`, `session` | join; with `since` and `epoch`, resume there |
| `say` | `text`, `id` | say something; answered by `ack` or by `error`, never by both |
| `who` | | ask who is here; answered by `roster` |
| `ping` | `id` | ask for a sign of life; answered by `pong` (a page cannot send Ping frames) |
| `renew` | `token` | show a new proof of who you are; answered by `renewed` or by `error` |

From the server:

| type | members | meaning |
|---|---|---|
| `welcome` | `name`, `room`, `epoch`, `offset`, `people`, `count` | the answer to `hello` |
| `joined`, `left` | `name`, `offset`, `time`, `prev` | somebody came or went |
| `message` | `sender`, `text`, `id`, `offset`, `time`, `prev` | somebody else said something |
| `ack` | `id`, `offset`, `time`, `prev` | your `say` is in the log, at this offset |
| `missed` | `count`, `offset` | `count` events are gone for you, the last at `offset` |
| `roster` | `people`, `count` | who is here |
| `pong` | `id` | the answer to `ping` |
| `system` | `text` | a notice of the server, for people; no event of the room |
| `expires` | `seconds` | your login ends then: `renew` it |
| `renewed` | `seconds` | your login is good for so long from now; null for ever |
| `error` | `code`, `text`, `id` | what was wrong with a message of yours, and which |

**Offsets.** A room numbers its events 1, 2, 3, ... After `welcome`, whose `offset` says where it
starts, a client gets every number once and in order: as `joined`, `left`, `message`, or (for what
it said itself) `ack`, or inside a `missed`. So the newest offset seen is all it has to remember.

**Several servers.** Where rooms are shared over a broker's log, numbers grow but are not all of one
room. Then `joined`, `left`, `message` and the `ack` of what is in the log have `prev`, which is
absent elsewhere: no event of the room has a number between that and its own. While the broker is
away nobody hears what is said, and its `ack` waits; when too much waits, `say` is answered by
`error`. What has a number that is not above the newest seen has been seen.

**Resuming.** `epoch` names one life of a room, and proves that its owner was there, and since when;
it is opaque, and nobody else's business. A client that comes back says the `epoch` it was given
last and, as `since`, the newest offset it saw, and is sent what it missed. If the welcome has
another epoch, this is another life of the room, as the server has been restarted: the client is
told `missed` with `count` null (nobody can know how many), then gets all that the new life has
kept. Whoever was never there, or can't show it, gets what is said from now on, also if it asks for
`since`; then a `missed` with `count` null says so. (A server may let newcomers have what a room has
kept, with `since` 0; ours does so with the option `history`.)

**Sending once.** A client that does not know whether a `say` arrived repeats it with the same `id`.
Ids are remembered for each `session` (a text the client makes up and keeps while it reconnects;
random, since whoever knows it can use up its ids), and a repeated id is acknowledged again and not
published again. That second `ack` names an offset of the past, and may overtake events that are
still on their way: it is not the event at that offset. What a broken connection had sent comes back
on the next one as `message`, with its `id`: for the client that is the acknowledgement.

**Too fast.** Where the server limits the rate, what comes faster waits for its turn, and what
cannot even wait is answered by an `error` with the code `rate`: it was not said, and may be said
again later. A client that goes on like that is closed with 1008.

**Logins that end.** Where a login has an end, `expires` says so in time. Who does not `renew` by
then is closed with 4401 and may come back with a new login; who was sent away for good, with 4403.

Times are seconds since 1970, UTC. Unknown members are ignored; unknown types are an `error`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from websockets.typing import Subprotocol

__all__ = [
    "SUBPROTOCOL",
    "Ack",
    "ClientEvent",
    "Error",
    "Expires",
    "Hello",
    "Joined",
    "Left",
    "Message",
    "Missed",
    "Ping",
    "Pong",
    "Renew",
    "Renewed",
    "RoomEvent",
    "Roster",
    "Say",
    "ServerEvent",
    "ShortText",
    "System",
    "Welcome",
    "Who",
    "encode",
]

SUBPROTOCOL = Subprotocol("chat.v1+json")

ShortText = Annotated[str, msgspec.Meta(max_length=64)]
"""What a client may call itself or a message of its own, for programs."""


class Event(msgspec.Struct, tag_field="type", tag=str.lower):
    """What all events share: the class's name in lower case is the member ``type``."""


# From the client.


class Hello(Event):
    """Join, or resume after `since` in the life `epoch` of the room."""

    name: str
    since: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    epoch: Annotated[str, msgspec.Meta(max_length=128)] = ""
    session: ShortText = ""


class Say(Event):
    """Say something to the room."""

    text: str
    id: ShortText = ""


class Who(Event):
    """Ask who is here."""


class Ping(Event):
    """Ask for a sign of life."""

    id: ShortText = ""


class Renew(Event):
    """Show a new proof of who you are."""

    token: Annotated[str, msgspec.Meta(max_length=4096)]


# From the server, to one.


class Welcome(Event):
    """The first event of a connection; what follows begins after `offset`."""

    name: str
    room: str
    epoch: str
    offset: int
    people: list[str]
    """The first hundred people, yourself not counted yet."""
    count: int


class Ack(Event):
    """What you said under `id` is in the log."""

    id: str
    offset: int
    time: float
    prev: int | UnsetType = UNSET


class Missed(Event):
    """Events up to `offset` are gone; `count` is None where nobody can know how many."""

    count: int | None
    offset: int


class Roster(Event):
    """Who is here: the first hundred people, and how many there are."""

    people: list[str]
    count: int


class Pong(Event):
    """A sign of life."""

    id: str = ""


class System(Event):
    """A notice of the server, for people; no event of the room."""

    text: str


class Expires(Event):
    """Your login ends in so many seconds: renew it."""

    seconds: float


class Renewed(Event):
    """Your login is good for so many seconds from now; None for ever."""

    seconds: float | None


class Error(Event):
    """What was wrong with a message; `code` is one word for programs."""

    code: str
    text: str
    id: str = ""


# From the server, to the room.


class Joined(Event):
    """Somebody came."""

    name: str
    offset: int = 0
    time: float = 0.0
    prev: int | UnsetType = UNSET


class Left(Event):
    """Somebody went."""

    name: str
    offset: int = 0
    time: float = 0.0
    prev: int | UnsetType = UNSET


class Message(Event):
    """Somebody said something."""

    sender: str
    text: str
    id: str = ""
    offset: int = 0
    time: float = 0.0
    prev: int | UnsetType = UNSET


ClientEvent = Hello | Say | Who | Ping | Renew
RoomEvent = Joined | Left | Message
ServerEvent = (
    Welcome | Joined | Left | Message | Ack | Missed | Roster | Pong
    | System | Expires | Renewed | Error
)  # fmt: skip

encode = msgspec.json.Encoder().encode
"""Return an event as JSON, in UTF-8."""
