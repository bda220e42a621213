"""Lesson 5's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

from wslessons.exercises import check

PLAYERS = check.players.solution_source
WATCH = check.watch_server.solution_source

WRONG = {
    "beat_settings": [
        ("the lesson's", "beat_settings = (15, 45)\n", "Look at the longest time"),
        ("half of it each", "beat_settings = (15, 15)\n", "and then the timeout"),
        ("quick", "beat_settings = (5, 2)\n", "timeout has to be above"),
        ("rare", "beat_settings = (12, 6)\n", "interval has to be below"),
        ("one number", "beat_settings = 8\n", "Write two numbers"),
    ],
    "players": [
        (
            "only finally",
            PLAYERS.replace("interval=0.5, timeout=1", "interval=15, timeout=45"),
            "interval + timeout is how long",
        ),
        (
            "only the numbers",
            check.players.stub.replace("interval=15, timeout=45", "interval=0.5, timeout=1"),
            "use a finally block",
        ),
        (
            "impatient",
            PLAYERS.replace("interval=0.5, timeout=1", "interval=1, timeout=0.3"),
            "A late answer is an answer",
        ),
        (
            "a list for each",
            PLAYERS.replace("names = []\n\n\n", "\n").replace(
                "    with Heartbeat", "    names = []\n    with Heartbeat"
            ),
            "keep one for all",
        ),
        (
            "a set",
            PLAYERS.replace("names = []", "names = {}")
            .replace("names.append(name)", "names[name] = connection")
            .replace("names.remove(name)", "names.pop(name, None)"),
            "Two players may have one name",
        ),
        (
            "nobody is taken off",
            PLAYERS.replace("names.remove(name)", "pass"),
            "taken off the list by the handler",
        ),
    ],
    "watch_server": [
        (
            "no limit",
            WATCH.replace("async with asyncio.timeout(1):", "if True:"),
            "without end",
        ),
        (
            "asked once",
            WATCH.replace("            while True:\n", "            if True:\n").replace(
                "                await asyncio.sleep(0.2)\n",
                "                await asyncio.sleep(0.2)\n                return 'gone'\n",
            ),
            "It asks once",
        ),
        (
            "only a pong counts",
            WATCH.replace(
                "                    await connection.recv()\n",
                "                    while await connection.recv() != 'pong':\n"
                "                        pass\n",
            ),
            "a server that talks is there",
        ),
        ("no pause", WATCH.replace("await asyncio.sleep(0.2)", "pass"), "between two questions"),
        (
            "the wrong way round",
            WATCH.replace('"gone"', '"x"').replace('"closed"', '"gone"').replace('"x"', '"closed"'),
            "passed in silence",
        ),
        (
            "a ping frame",
            WATCH.replace('connection.send("ping")', "connection.ping()"),
            "Ask first",
        ),
        (
            "the end is not expected",
            WATCH.replace("except ConnectionClosed", "except ValueError"),
            "catch it with try",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(5, WRONG)
