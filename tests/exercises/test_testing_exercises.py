"""Lesson 9's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

import asyncio

import pytest
from author import closing_tests
from kernels import kernel

from wslessons.exercises import check, progress

IMPORTS = """
import asyncio
import time

from websockets import connect
from wslessons.testing import connections, wire
from wslessons.wire import FrameRecord
"""

WRONG = {
    "steady_test": [
        (
            "sleep a little longer",
            """
async def steady_test(url):
    async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
        await asyncio.sleep(0.2)
        await ann.send("hi")
        async with asyncio.timeout(0.6):
            assert await bob.recv() == "welcome"
            assert await bob.recv() == "hi"
""",
            "Ann spoke before bob was in",
        ),
        (
            "a tight limit makes it a good test",
            """
async def steady_test(url):
    async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
        assert await bob.recv() == "welcome"
        await ann.send("hi")
        async with asyncio.timeout(0.2):
            assert await bob.recv() == "hi"
""",
            "far above what is needed",
        ),
        (
            "sleep long enough for everybody",
            """
async def steady_test(url):
    async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
        await asyncio.sleep(0.5)
        await ann.send("hi")
        async with asyncio.timeout(1):
            assert await bob.recv() == "welcome"
            assert await bob.recv() == "hi"
""",
            "still sleeps before ann speaks",
        ),
        (
            "without any limit it is never too tight",
            """
async def steady_test(url):
    async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
        assert await bob.recv() == "welcome"
        await ann.send("hi")
        assert await bob.recv() == "hi"
""",
            "waits for ever",
        ),
        (
            "something came",
            """
async def steady_test(url):
    async with asyncio.timeout(1):
        async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
            assert await bob.recv() == "welcome"
            await ann.send("hi")
            assert await bob.recv()
""",
            "another line than ann has said",
        ),
        (
            "bob is welcome, that will do",
            """
async def steady_test(url):
    async with asyncio.timeout(2):
        async with connect(url, proxy=None) as ann, connect(url, proxy=None) as bob:
            assert await bob.recv() == "welcome"
            await ann.send("hi")
""",
            "Bob never hears the line",
        ),
        (
            "ann hears herself",
            """
async def steady_test(url):
    async with asyncio.timeout(0.2):
        async with connect(url, proxy=None) as ann:
            assert await ann.recv() == "welcome"
            await ann.send("hi")
            assert await ann.recv() == "hi"
""",
            "each line that ann says",
        ),
    ],
    "outage_test": [
        (
            "it works on my machine",
            """
async def outage_test(link, say, heard):
    async with asyncio.timeout(1):
        for text in ("one", "two", "three"):
            say(text)
            assert await heard() == text
""",
            "Nothing was broken",
        ),
        (
            "break it, wait, and go on",
            """
async def outage_test(link, say, heard):
    async with asyncio.timeout(2):
        say("one")
        assert await heard() == "one"
        for text in ("two", "three"):
            with link.cut():
                pass
            back = await link.wait_for_connection(link.accepted + 1)
            await back.wait_for(lambda record: isinstance(record, FrameRecord))
            await asyncio.sleep(0.1)
            say(text)
            assert await heard() == text
""",
            "Say a line while it is away",
        ),
        (
            "the line is among what was heard",
            """
async def outage_test(link, say, heard):
    async with asyncio.timeout(1):
        say("one")
        assert await heard() == "one"
        for text in ("two", "three"):
            with link.cut():
                say(text)
            while await heard() != text:
                pass
""",
            "compare each line",
        ),
        (
            "once is enough",
            """
async def outage_test(link, say, heard):
    async with asyncio.timeout(1):
        say("one")
        assert await heard() == "one"
        with link.cut():
            say("two")
        assert await heard() == "two"
""",
            "a second time",
        ),
        (
            "cut, and forget to heal",
            """
async def outage_test(link, say, heard):
    async with asyncio.timeout(0.5):
        say("one")
        assert await heard() == "one"
        link.cut()
        say("two")
        assert await heard() == "two"
""",
            "until it is undone",
        ),
        (
            "what is lost will come",
            """
async def outage_test(link, say, heard):
    say("one")
    assert await heard() == "one"
    for text in ("two", "three"):
        with link.cut():
            say(text)
        assert await heard() == text
""",
            "waits for ever",
        ),
    ],
    "heartbeat_test": [
        (
            "no assertion",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections()
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True
        await asyncio.sleep(60)
        print(heartbeat.dropped)
""",
            "assert that it was dropped",
        ),
        (
            "only the dead",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections()
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True
        await asyncio.sleep(60)
        assert heartbeat.dropped
""",
            "also who answers each ping",
        ),
        (
            "everybody answers at once",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections()
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        await asyncio.sleep(300)
        assert not heartbeat.dropped
        wire(client).stalled = True
        await asyncio.sleep(60)
        assert heartbeat.dropped
""",
            "Whose answers take 40 s",
        ),
        (
            "some time or other",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections(up=lambda: 40)
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        await asyncio.sleep(300)
        assert not heartbeat.dropped
        wire(client).stalled = True
        await asyncio.sleep(300)
        assert heartbeat.dropped
""",
            "Look after 60 s",
        ),
        (
            "dropped after the timeout",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections(up=lambda: 40)
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True
        await asyncio.sleep(45)
        assert heartbeat.dropped
""",
            "perhaps not sooner",
        ),
        (
            "wait until it is dropped",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections(up=lambda: 40)
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True
        await server.wait_closed()
        assert heartbeat.dropped
""",
            "In virtual time a generous",
        ),
        (
            "the usual sleep",
            """
async def heartbeat_test(Heartbeat):
    server, client = connections()
    with Heartbeat(server, interval=15, timeout=45) as heartbeat:
        wire(client).stalled = True
        time.sleep(5)
        assert heartbeat.dropped
""",
            "asyncio.sleep",
        ),
    ],
    "echo_test": [
        (
            "it answered, so it works",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        await client.send("hello")
        await client.recv()
""",
            "Compare what came",
        ),
        (
            "one message tells it all",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "hello"
""",
            "A second message over the same connection",
        ),
        (
            "the same message again",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        for _ in range(3):
            await client.send("hello")
            assert await client.recv() == "hello"
""",
            "your next, different message",
        ),
        (
            "text only",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        for message in ("hello", "goodbye"):
            await client.send(message)
            assert await client.recv() == message
""",
            "Send bytes as well",
        ),
        (
            "nothing is no message",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        for message in ("hello", b"\\xff", "goodbye"):
            await client.send(message)
            assert await client.recv() == message
""",
            "An empty message is a message",
        ),
        (
            "an answer always comes",
            """
async def echo_test(url):
    async with connect(url, proxy=None) as client:
        for message in ("hello", "", b"\\xff", "goodbye"):
            await client.send(message)
            assert await client.recv() == message
""",
            "waits for ever",
        ),
        (
            "lesson 1's echo said more",
            """
async def echo_test(url):
    async with asyncio.timeout(1), connect(url, proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "Echo: hello"
""",
            "This server is right",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(9, WRONG, IMPORTS)


async def test_in_a_kernel_a_virtual_clock_runs_beside_its_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the stub over a weak test to the solution, one after the other."""
    exercise = check.heartbeat_test
    weak = exercise.solution_source.replace("sleep(60)", "sleep(300)")
    assert weak != exercise.solution_source
    monkeypatch.setenv(progress.VARIABLE, "")
    async with asyncio.timeout(100), kernel() as notebook:
        await notebook.run("from wslessons.exercises import check")
        said = []
        for answer in (exercise.stub, weak, exercise.solution_source):
            await notebook.run(answer)
            said.append(await notebook.run("await check.heartbeat_test(heartbeat_test)"))
    assert said[0].startswith("check.heartbeat_test: not attempted yet")
    assert "fail       it notices one that needs three times as long" in said[1]
    assert said[2].startswith("check.heartbeat_test: passed")
