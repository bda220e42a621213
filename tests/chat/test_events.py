"""The events of the chat, and what the two codecs make of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslessons.chat import events
from wslessons.chat.codecs import JSON, RATE, TEXT, Record, clean_text
from wslessons.chat.events import Error, Message, Say
from wslessons.chat.rules import Pace, clean_name

SERVER = [
    (events.Welcome("a", "/", "e", 3, ["b"], 1), "welcome"),
    (events.Joined("a", 1, 2.5), "joined"),
    (events.Left("a", 1, 2.5), "left"),
    (Message("a", "hi", "7", 1, 2.5), "message"),
    (events.Ack("7", 1, 2.5), "ack"),
    (events.Missed(None, 9), "missed"),
    (events.Roster(["a"], 1), "roster"),
    (events.Pong("x"), "pong"),
    (events.System("we restart"), "system"),
    (events.Expires(2.5), "expires"),
    (events.Renewed(None), "renewed"),
    (events.Error("blank", "blank", "7"), "error"),
]


@pytest.mark.parametrize(("event", "tag"), SERVER, ids=[tag for _, tag in SERVER])
def test_server_events_survive_the_wire(event: events.ServerEvent, tag: str) -> None:
    """Each event is one JSON object, known by its `type`, and reads back as it was."""
    data = events.encode(event)
    assert json.loads(data)["type"] == tag
    assert JSON.decode_server(data) == event


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
        events.Renew,
    ]:
        assert documented.pop(cls.__name__.lower()) == set(cls.__struct_fields__)
    assert not documented


UNICODE = st.text(alphabet=st.characters(exclude_categories=("Cs",)))


@given(UNICODE, st.text(max_size=20))
def test_any_text_survives_the_wire(text: str, id: str) -> None:
    """What a client says comes out as it went in, but cleaned, whatever Unicode it is made of."""
    id = id.encode(errors="replace").decode()
    said, data = Message("bob", text, id, 1, 2.5), events.encode(Say(text, id)).decode()
    assert JSON.decode_server(JSON.encode(Record(said))) == said
    if clean_text(text):
        assert JSON.decode_client(data) == Say(clean_text(text), id)
    else:
        assert JSON.decode_client(data) == Error("blank", "a blank message is not sent", id)


def is_name(text: str) -> bool:
    """Whether the chat accepts `text` as a name, as it is."""
    try:
        return clean_name(text) == text
    except ValueError:
        return False


NAMES = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=32).filter(
    is_name
)


@given(NAMES, UNICODE.map(clean_text).filter(bool))
def test_a_client_reads_the_lines_that_a_server_writes(name: str, text: str) -> None:
    """Each line of plain text that stands for an event reads back as that event."""
    for event in (Message(name, text), events.Joined(name), events.Left(name)):
        assert TEXT.decode_server(TEXT.encode(Record(event)).decode()) == event


@pytest.mark.parametrize("count", [None, 1, 2, 1234])
def test_a_client_reads_how_many_events_it_missed(count: int | None) -> None:
    """The notice of a gap reads back with its count, or without one where nobody knows it."""
    assert TEXT.decode_server(TEXT.missed(count, 9).decode()) == events.Missed(count, 0)


def test_a_client_reads_that_it_was_too_fast() -> None:
    """What a `Pace` refuses reads back as the error it is, so that it can be counted as unsaid."""
    pace = Pace(0.01, burst=1, debt=0)
    pace.admit(Say("one"), 3)
    error = pace.admit(Say("[x] y", "7"), 5)
    assert isinstance(error, Error)
    assert TEXT.decode_server(TEXT.answer(error).decode()) == Error(RATE, error.text)


@given(NAMES)
def test_a_client_reads_its_welcome(name: str) -> None:
    """The line that lets somebody in reads back with their name."""
    line = TEXT.answer(events.Welcome(name, "/", "e", 3, [], 0)).decode()
    assert TEXT.decode_server(line) == events.Welcome(name, "", "", 0, [], 0)


@given(NAMES, UNICODE.map(clean_text).filter(bool))
def test_a_server_reads_what_a_client_writes(name: str, text: str) -> None:
    """Both protocols read back on the server what they write on the client."""
    for event in (Say(text), events.Who()):
        line = TEXT.encode_client(event).decode()
        assert TEXT.decode_client(line) == (events.Who() if line == "/who" else event)
        assert JSON.decode_client(JSON.encode_client(event).decode()) == event
    assert TEXT.decode_hello(TEXT.encode_client(events.Hello(name)).decode()) == events.Hello(name)
    hello = events.Hello(name, 7, "e", "s")
    assert JSON.decode_hello(JSON.encode_client(hello).decode()) == hello
    with pytest.raises(ValueError, match="only give its name, talk, and ask who"):
        TEXT.encode_client(events.Ping("x"))


@pytest.mark.parametrize("event", [SERVER[6][0], SERVER[8][0]], ids=["roster", "error"])
def test_lines_for_people_are_no_events(event: events.Roster | Error) -> None:
    """A client can tell a notice that people read from what happened in the room."""
    assert TEXT.decode_server(TEXT.answer(event).decode()) is None


@given(UNICODE)
def test_a_line_of_plain_text_is_said_unless_it_is_a_command(text: str) -> None:
    """The first line is the name; later `/who` asks, blank says nothing, the rest is said."""
    assert TEXT.decode_hello(text) == events.Hello(text)
    line = clean_text(text)
    assert TEXT.decode_client(text) == (Say(line) if line else None)
    assert TEXT.decode_client(f" /who {' ' * len(text)}") == events.Who()


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
    """Anything that a client must not send is answered by an error that says what is wrong."""
    error = JSON.decode_client(data)
    assert isinstance(error, Error)
    assert error.code == "invalid"
    assert any(map(str.isalpha, error.text))


@pytest.mark.parametrize("data", ["hi", "{}", '{"type": "say", "text": "x"}', '{"type": "hello"}'])
def test_only_a_hello_may_come_first(data: str) -> None:
    """In JSON a first message of any other kind is refused with a sentence."""
    with pytest.raises(ValueError, match=r"^the first message must be a hello"):
        JSON.decode_hello(data)
    assert JSON.decode_hello('{"type": "hello", "name": "x"}') == events.Hello("x")


def test_unknown_members_are_ignored() -> None:
    """A newer client may say more than this server knows."""
    assert JSON.decode_client('{"type": "say", "text": "x", "mood": "good"}') == Say("x")


def test_plain_text_is_as_the_first_lesson_has_it() -> None:
    """The lines of the plain-text protocol, byte for byte."""
    assert TEXT.encode(Record(Message("bob", "hi"))) == b"[bob] hi"
    assert TEXT.encode(Record(events.Joined("bob"))) == b"[system] >>> bob joined the chat"
    assert TEXT.encode(Record(events.Left("bob"))) == b"[system] >>> bob left the chat"
    assert TEXT.answer(events.Welcome("a", "/", "e", 3, [], 0)) == b"Welcome, a!"
    assert TEXT.missed(3, 0) == b"[system] you missed 3 messages"
    assert TEXT.missed(1, 0) == b"[system] you missed 1 message"
    assert TEXT.missed(None, 0) == b"[system] you missed messages"
    assert TEXT.answer(events.Roster(["a", "b"], 2)) == b"[system] here now: a, b"
    assert TEXT.answer(events.Roster(["a", "b"], 9)) == b"[system] here now: a, b and 7 more"
    assert TEXT.answer(Error("code", "words")) == b"[system] words"


def test_only_what_was_said_is_acknowledged() -> None:
    """The sender gets an `ack` where others get the message, in JSON; in plain text nothing."""
    said = Record(Message("bob", "hi", "7", 4, 2.5), origin="x")
    assert JSON.decode_server(JSON.to_sender(said) or b"") == events.Ack("7", 4, 2.5)
    assert TEXT.to_sender(said) is None
    assert JSON.to_sender(Record(events.Joined("bob"))) is None
