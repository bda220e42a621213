"""Lesson 6's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

from wslessons.exercises import check

SERVER = check.two_servers.solution_source


def hears(returned: str) -> str:
    """An answer to `who_hears`."""
    return f"import math\n\n\ndef who_hears(people, servers):\n    return {returned}\n"


def count(body: str) -> str:
    """An answer to `missed`."""
    return f"def missed(numbers):\n    {body}\n"


def place(returned: str) -> str:
    """An answer to `shard`."""
    return (
        "import random\nfrom zlib import crc32\n\n\ndef shard(room, shards):\n"
        f"    return {returned}\n"
    )


WRONG = {
    "who_hears": [
        ("all on the server", hears("people // servers"), "is not counted"),
        ("everybody", hears("people - 1"), "same server"),
        ("real numbers", hears("people / servers - 1"), "whole numbers"),
        ("rounded down", hears("people // servers - 1"), "first of each round"),
        ("a constant", hears("3"), "How many are on the first one's server"),
        ("never nobody", hears("max((people - 1) // servers, 1)"), "so it has 1 here"),
    ],
    "missed": [
        ("one off", count("return max(numbers) - min(numbers) - len(numbers)"), "add 1"),
        (
            "holes",
            count("return sum(b - a > 1 for a, b in zip(numbers, numbers[1:]))"),
            "count the numbers",
        ),
        ("from 1", count("return max(numbers) - len(set(numbers))"), "begin with the smallest"),
        (
            "repeats",
            count("return max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0"),
            "count each number once",
        ),
        (
            "neighbours",
            count("return sum(max(b - a - 1, 0) for a, b in zip(numbers, numbers[1:]))"),
            "not at neighbours",
        ),
        (
            "never empty",
            count("return max(numbers) - min(numbers) + 1 - len(set(numbers))"),
            "return 0 for it",
        ),
        (
            "which",
            count(
                "found = set(range(min(numbers), max(numbers) + 1)) - set(numbers)\n"
                "    return found if found else 0"
            ),
            "How many they are",
        ),
    ],
    "shard": [
        ("hash", place("hash(room) % shards"), "random seed in each process"),
        ("random", place("random.randrange(shards)"), "nothing random"),
        ("from 1", place("crc32(room.encode()) % shards + 1"), "numbers 0 to 3"),
        ("length", place("len(room) % shards"), "look alike"),
        ("text", place("str(crc32(room.encode()) % shards)"), "a whole one"),
        ("text as it is", place("crc32(room) % shards"), "made of bytes"),
    ],
    "two_servers": [
        (
            "no bus",
            SERVER.replace('self.bus.publish(Event("/", text))', "broadcast(self.clients, text)"),
            "this server's people only",
        ),
        (
            "both",
            SERVER.replace(
                'self.bus.publish(Event("/", text))',
                'broadcast(self.clients, text); self.bus.publish(Event("/", text))',
            ),
            "A line comes twice",
        ),
        (
            "one after the other",
            SERVER.replace(
                "broadcast(self.clients, item.data)",
                "[await client.send(item.data) for client in self.clients]",
            ).replace("self.clients.discard(connection)", "pass"),
            "has ended `run`",
        ),
        (
            "not to the sender",
            SERVER.replace(
                'self.bus.publish(Event("/", text))',
                'self.bus.publish(Event("/", text, connection=str(id(connection))))',
            ).replace(
                "broadcast(self.clients, item.data)",
                "broadcast([c for c in self.clients if str(id(c)) != item.connection], item.data)",
            ),
            "The sender hears the line as well",
        ),
        (
            "nobody is told",
            SERVER.replace("self.clients.add(connection)", "pass"),
            "send what comes from the bus",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(6, WRONG)
