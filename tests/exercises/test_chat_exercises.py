"""Lesson 2's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

from wslessons.exercises import check

MEMBERS = check.members.solution_source
NOTICE = 'await connection.send(f"missed {lag.skipped}")'
NOT_DEAF = check.not_deaf.solution_source

WRONG = {
    "relay": [
        (
            "to everybody",
            """
clients = set()


async def relay(connection):
    clients.add(connection)
    try:
        async for message in connection:
            for client in list(clients):
                await client.send(message)
    finally:
        clients.discard(connection)
""",
            "Leave out the sender",
        ),
        (
            "nobody is taken out",
            """
clients = set()


async def relay(connection):
    clients.add(connection)
    async for message in connection:
        for client in list(clients):
            if client is not connection:
                await client.send(message)
""",
            "Take them out in a finally block",
        ),
        (
            "the set itself, as in the lesson",
            """
clients = set()


async def relay(connection):
    clients.add(connection)
    try:
        async for message in connection:
            for client in clients:
                if client is not connection:
                    await client.send(message)
    finally:
        clients.discard(connection)
""",
            "loop over a copy",
        ),
        (
            "nobody is put in",
            """
clients = set()


async def relay(connection):
    async for message in connection:
        for client in list(clients):
            await client.send(message)
""",
            "Send to every connection in the set",
        ),
        (
            "with a name in front",
            """
clients = set()


async def relay(connection):
    clients.add(connection)
    try:
        async for message in connection:
            for client in list(clients):
                if client is not connection:
                    await client.send(f"somebody: {message}")
    finally:
        clients.discard(connection)
""",
            "as it came",
        ),
        (
            "gather without await",
            """
clients = set()


async def relay(connection):
    clients.add(connection)
    try:
        async for message in connection:
            for client in list(clients):
                if client is not connection:
                    client.send(message)
    finally:
        clients.discard(connection)
""",
            "only makes a coroutine",
        ),
    ],
    "members": [
        (
            "only the name is refused",
            check.members.stub.replace(
                "        self.members[name]",
                "        if name == 'system':\n            await connection.close(1008, 'no')\n"
                "            return\n        self.members[name]",
                1,
            ),
            "by connection, not by name",
        ),
        (
            "a list of names and connections",
            """
class Members:
    def __init__(self):
        self.members = []

    async def handler(self, connection):
        name = (await connection.recv()).strip()
        if name == "system":
            return await connection.close(1008, "reserved")
        self.members.append((name, connection))
        try:
            async for text in connection:
                for _, member in list(self.members):
                    if member is not connection:
                        await member.send(f"[{name}] {' '.join(text.split())}")
        finally:
            self.members = [pair for pair in self.members if pair[0] != name]
""",
            "not the name",
        ),
        (
            "a return is enough",
            MEMBERS.replace(
                'return await connection.close(1008, "the name system is reserved")', "return"
            ),
            "A return closes with 1000",
        ),
        (
            "the name as it came",
            MEMBERS.replace('name == "system"', 'raw == "system"').replace(
                "name = (await connection.recv()).strip()",
                "raw = await connection.recv()\n        name = raw.strip()",
            ),
            "after strip()",
        ),
        ("no reason", MEMBERS.replace(', "the name system is reserved"', ""), "takes a reason"),
        (
            "everybody is let in",
            MEMBERS.replace('if name == "system"', 'if name == "admin"'),
            "can announce whatever it likes",
        ),
        (
            "newlines only",
            MEMBERS.replace("' '.join(text.split())", "text.replace(chr(10), ' ')"),
            "carriage return",
        ),
        (
            "no line is cleaned",
            MEMBERS.replace("{' '.join(text.split())}", "{text}"),
            "put the text on one line",
        ),
        (
            "only the first line",
            MEMBERS.replace("' '.join(text.split())", "text.splitlines()[0]"),
            "keep the rest of the text",
        ),
        (
            "to everybody",
            MEMBERS.replace("if member is not connection:", "if member:"),
            "Leave out the connection that said it",
        ),
    ],
    "not_deaf": [
        ("only the task", NOT_DEAF.replace("as lag", "").replace(NOTICE, "break"), "do not break"),
        (
            "in silence",
            NOT_DEAF.replace("as lag", "").replace(NOTICE, "continue"),
            "the reader can't know",
        ),
        (
            "a notice and the end",
            NOT_DEAF.replace('{lag.skipped}")', '{lag.skipped}")\n            return'),
            "deaf: stay in the loop",
        ),
        ("the capacity", NOT_DEAF.replace("{lag.skipped}", "8"), "lag.skipped"),
        (
            "another notice",
            NOT_DEAF.replace("missed {lag.skipped}", "you missed {lag.skipped} lines"),
            "nothing else",
        ),
        ("out", NOT_DEAF.replace(NOTICE, 'await connection.close(1013, "too slow")'), "no enemy"),
        (
            "the task is left",
            NOT_DEAF.replace("writing.cancel()", "pass"),
            "Who starts a task ends it",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(2, WRONG)
