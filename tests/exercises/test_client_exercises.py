"""Lesson 3's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

from wslessons.exercises import check

COME_BACK = check.come_back.solution_source
RESUME = check.resume.solution_source
IMPORTS = "import asyncio\nimport random\n\nfrom websockets import ConnectionClosed, connect\n\n\n"

WRONG = {
    "talk": [
        (
            "alternating",
            IMPORTS
            + """
async def talk(url, lines):
    answers = []
    async with connect(url, proxy=None) as connection:
        for line in lines:
            await connection.send(line)
            answers.append(await connection.recv())
    return answers
""",
            "Sending must not wait for answers",
        ),
        (
            "first write, then read",
            IMPORTS
            + """
async def talk(url, lines):
    async with connect(url, proxy=None) as connection:
        for line in lines:
            await connection.send(line)
        return [await connection.recv() for _ in lines]
""",
            "Read and write at once",
        ),
        (
            "read for ever",
            IMPORTS
            + """
async def talk(url, lines):
    answers = []
    async with connect(url, proxy=None) as connection:
        for line in lines:
            await connection.send(line)
        async for answer in connection:
            answers.append(answer)
    return answers
""",
            "You know how many come",
        ),
        (
            "a task that nobody awaits",
            IMPORTS
            + """
async def talk(url, lines):
    answers = []
    async with connect(url, proxy=None) as connection:

        async def listen():
            for _ in lines:
                answers.append(await connection.recv())

        asyncio.create_task(listen())
        for line in lines:
            await connection.send(line)
    return answers
""",
            "were not waited for",
        ),
        (
            "nothing is returned",
            IMPORTS
            + """
async def talk(url, lines):
    async with connect(url, proxy=None) as connection:
        for line in lines:
            await connection.send(line)
        for _ in lines:
            print(await connection.recv())
""",
            "as a list",
        ),
        (
            "the lines themselves",
            IMPORTS
            + """
async def talk(url, lines):
    async with connect(url, proxy=None) as connection:
        for line in lines:
            await connection.send(line)
    return lines
""",
            "what the server answered",
        ),
    ],
    "delays": [
        (
            "doubling alone",
            """
def delays(base, cap):
    while True:
        yield base
        base = min(2 * base, cap)
""",
            "Without dice",
        ),
        (
            "half fixed, half drawn",
            """
import random


def delays(base, cap):
    while True:
        yield base / 2 + random.uniform(0, base / 2)
        base = min(2 * base, cap)
""",
            "keeps the wave together",
        ),
        (
            "no cap",
            """
import random


def delays(base, cap):
    while True:
        yield random.uniform(0, base)
        base *= 2
""",
            "no delay exceeds the cap",
        ),
        (
            "one bound for all",
            """
import random


def delays(base, cap):
    while True:
        yield random.uniform(0, base)
""",
            "twice as large with each delay",
        ),
        (
            "five must do",
            """
import random


def delays(base, cap):
    for attempt in range(5):
        yield random.uniform(0, min(cap, base * 2**attempt))
""",
            "never ends",
        ),
        (
            "a power",
            """
import random
from itertools import count


def delays(base, cap):
    for attempt in count():
        yield random.uniform(0, min(cap, base * 2**attempt))
""",
            "too large for a float",
        ),
        (
            "cap at once",
            """
import random


def delays(base, cap):
    while True:
        yield random.uniform(0, cap)
""",
            "The bound of the first delay is base",
        ),
        (
            "a list",
            """
import random


def delays(base, cap):
    return random.uniform(0, base)
""",
            "yield",
        ),
    ],
    "come_back": [
        (
            "one connection",
            IMPORTS
            + """
async def come_back(url):
    heard = []
    async with connect(url, proxy=None) as connection:
        try:
            while True:
                heard.append(await connection.recv())
        except ConnectionClosed:
            return heard
""",
            "I restart, come back",
        ),
        ("again after 1008", COME_BACK.replace("in (1000, 1008)", "== 1000"), "is a refusal"),
        (
            "only 1012",
            COME_BACK.replace("in (1000, 1008)", "!= 1012"),
            "only 1000 and 1008 are",
        ),
        ("no pause", COME_BACK.replace("await asyncio.sleep(0.1)", "pass"), "hammer"),
        (
            "the list in the loop",
            COME_BACK.replace("    heard = []\n", "").replace(
                "        async with", "        heard = []\n        async with"
            ),
            "make the list only once",
        ),
        (
            "again and again",
            COME_BACK.replace(
                "                if connection.close_code in (1000, 1008):\n", ""
            ).replace("    return heard", "pass"),
            "1000 means that it is over",
        ),
        (
            "the exception is not caught",
            IMPORTS
            + """
async def come_back(url):
    heard = []
    async with connect(url, proxy=None) as connection:
        while True:
            heard.append(await connection.recv())
    return heard
""",
            "recv raises ConnectionClosed",
        ),
    ],
    "resume": [
        (
            "always from the start",
            RESUME.replace("connection.send(last)", 'connection.send("0")'),
            "remember the last number",
        ),
        (
            "how many",
            RESUME.replace("connection.send(last)", "connection.send(str(len(texts)))"),
            "how many lines you have",
        ),
        (
            "the next one",
            RESUME.replace(
                "connection.send(last)", 'connection.send(str(int(last) + (last != "0")))'
            ),
            "begins after it",
        ),
        (
            "lines",
            RESUME.replace("texts.append(text)", 'texts.append(f"{last} {text}")'),
            "for you",
        ),
        (
            "once only",
            RESUME.replace("if connection.close_code == 1000:\n    ", "if True:\n    "),
            "Only 1000 is the end",
        ),
        (
            "a list per connection",
            RESUME.replace('last, texts = "0", []', 'last = "0"').replace(
                "        async with", "        texts = []\n        async with"
            ),
            "make the list only once",
        ),
        (
            "two words",
            RESUME.replace(
                'last, text = (await connection.recv()).split(" ", 1)',
                "last, text, *_ = (await connection.recv()).split()",
            ),
            "splits only once",
        ),
        (
            "listen first",
            RESUME.replace("                await connection.send(last)\n", ""),
            "Say a number first",
        ),
        (
            "a number",
            RESUME.replace("connection.send(last)", "connection.send(int(last))"),
            "turn a number into text",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(3, WRONG)
