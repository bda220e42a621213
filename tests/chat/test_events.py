"""The events of the chat and their forms on the wire."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslessons.chat import events
from wslessons.chat.codecs import JSON, TEXT, Record
from wslessons.chat.events import Message, Say

SERVER = [
    (events.Welcome("a", "/", "e", 3, ["b"], 1), "welcome"),
    (events.Joined("a", 1, 2.5), "joined"),
    (events.Left("a", 1, 2.5), "left"),
    (Message("a", "hi", "7", 1, 2.5), "message"),
    (events.Ack("7", 1, 2.5), "ack"),
    (events.Missed(None, 9), "missed"),
    (events.Roster(["a"], 1), "roster"),
    (events.Pong("x"), "pong"),
    (events.Error("blank", "blank", "7"), "error"),
]


@pytest.mark.parametrize(("event", "tag"), SERVER, ids=[tag for _, tag in SERVER])
def test_server_events_survive_the_wire(event: events.ServerEvent, tag: str) -> None:
    """Each event is one JSON object, known by its `type`, and reads back as it was."""
    data = events.encode(event)
    assert json.loads(data)["type"] == tag
    assert events.decode_server(data) == event


def test_the_module_documents_every_event() -> None:
    """The tables of the module's docstring name every type and every member there is."""
    assert events.__doc__ is not None
    rows = [line for line in events.__doc__.splitlines() if line.startswith("| `")]
    documented = {}
    for row in rows:
        names, members = row.split("|")[1:3]
        for name in names.replace("`", "").split(","):
            documented[name.strip()] = {m.strip(" `") for m in members.split(",")} - {""}
    for cls in [type(event) for event, _ in SERVER] + [
        events.Hello,
        Say,
        events.Who,
        events.Ping,
    ]:
        assert documented.pop(cls.__name__.lower()) == set(cls.__struct_fields__)
    assert not documented


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))), st.text(max_size=20))
def test_any_text_survives_the_wire(text: str, id: str) -> None:
    """What a client says comes out as it went in, whatever Unicode it is made of."""
    id = id.encode(errors="replace").decode()
    assert events.decode_client(events.encode(Say(text, id))) == Say(text, id)


@pytest.mark.parametrize(
    "data",
    [
        "hi",
        "[]",
        "{}",
        '{"type": "message", "sender": "x", "text": "y"}',
        '{"type": "say"}',
        '{"type": "say", "text": 1}',
        '{"type": "say", "text": "\\ud800"}',
        '{"type": "say", "text": "x", "id": "' + 65 * "x" + '"}',
        '{"type": "hello", "name": "x", "since": -1}',
    ],
)
def test_what_is_no_event_is_refused(data: str) -> None:
    """Anything that a client must not send raises an error that says what is wrong."""
    with pytest.raises(msgspec.DecodeError, match=r"\w"):
        events.decode_client(data)


def test_unknown_members_are_ignored() -> None:
    """A newer client may say more than this server knows."""
    assert events.decode_client('{"type": "say", "text": "x", "mood": "good"}') == Say("x")


def test_plain_text_is_as_the_first_lesson_has_it() -> None:
    """The lines of the plain-text protocol, byte for byte."""
    assert TEXT.encode(Record(Message("bob", "hi"))) == b"[bob] hi"
    assert TEXT.encode(Record(events.Joined("bob"))) == b"[system] >>> bob joined the chat"
    assert TEXT.encode(Record(events.Left("bob"))) == b"[system] >>> bob left the chat"
    assert TEXT.welcome(SERVER[0][0]) == b"Welcome, a!"  # ty: ignore[invalid-argument-type]
    assert TEXT.missed(3, 0) == b"[system] you missed 3 messages"
    assert TEXT.missed(1, 0) == b"[system] you missed 1 message"
    assert TEXT.missed(None, 0) == b"[system] you missed messages"
    assert TEXT.roster(["a", "b"], 2) == b"[system] here now: a, b"
    assert TEXT.roster(["a", "b"], 9) == b"[system] here now: a, b and 7 more"
    assert TEXT.error("code", "words") == b"[system] words"


def test_only_what_was_said_is_acknowledged() -> None:
    """The sender gets an `ack` where others get the message, in JSON; in plain text nothing."""
    said = Record(Message("bob", "hi", "7", 4, 2.5), origin="x")
    assert events.decode_server(JSON.own(said) or b"") == events.Ack("7", 4, 2.5)
    assert TEXT.own(said) is None
    assert JSON.own(Record(events.Joined("bob"))) is None
