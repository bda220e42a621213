"""Lesson 1's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

WRONG = {
    "shout": [
        (
            "one message is enough",
            """
async def shout(connection):
    message = await connection.recv()
    await connection.send(message.upper())
""",
            "receive in a loop",
        ),
        (
            "what I return is sent",
            """
async def shout(connection):
    message = await connection.recv()
    return message.upper()
""",
            "what it returns goes nowhere",
        ),
        (
            "send sends",
            """
async def shout(connection):
    async for message in connection:
        connection.send(message.upper())
""",
            "only makes a coroutine",
        ),
        (
            "everything has an upper()",
            """
async def shout(connection):
    async for message in connection:
        await connection.send(message.upper())
""",
            "bytes have an upper()",
        ),
        (
            "it is an echo",
            """
async def shout(connection):
    async for message in connection:
        await connection.send(message)
""",
            "the message as it came",
        ),
        (
            "polite",
            """
async def shout(connection):
    async for message in connection:
        await connection.send(f"Echo: {message.upper()}")
""",
            "nothing around it",
        ),
        (
            "a plain function",
            """
def shout(connection):
    for message in connection:
        connection.send(message.upper())
""",
            "write async def",
        ),
        (
            "bytes become text",
            """
async def shout(connection):
    async for message in connection:
        await connection.send(str(message).upper())
""",
            "without being made into text",
        ),
    ],
    "counter": [
        (
            "a number for everybody",
            """
count = 0


async def counter(connection):
    global count
    async for _ in connection:
        count += 1
        await connection.send(str(count))
""",
            # Every connection of every behaviour counts on, the second behaviour's first.
            "All connections share this number",
        ),
        (
            "a number outside, without global",
            """
count = 0


async def counter(connection):
    async for _ in connection:
        count += 1
        await connection.send(str(count))
""",
            "makes it local",
        ),
        (
            "numbers can be sent",
            """
async def counter(connection):
    count = 0
    async for _ in connection:
        count += 1
        await connection.send(count)
""",
            "turn a number into text",
        ),
        (
            "count from zero",
            """
async def counter(connection):
    count = 0
    async for _ in connection:
        await connection.send(str(count))
        count += 1
""",
            "add 1 before you send",
        ),
        (
            "begin with ten",
            """
async def counter(connection):
    count = 10
    async for _ in connection:
        count += 1
        await connection.send(str(count))
""",
            "Each connection begins with 1",
        ),
        (
            "set in the loop",
            """
async def counter(connection):
    async for _ in connection:
        count = 0
        count += 1
        await connection.send(str(count))
""",
            "begins anew with each message",
        ),
        (
            "count the texts",
            """
async def counter(connection):
    count = 0
    async for message in connection:
        if isinstance(message, str):
            count += 1
            await connection.send(str(count))
""",
            "receive in a loop",
        ),
        (
            "with a word",
            """
async def counter(connection):
    count = 0
    async for _ in connection:
        count += 1
        await connection.send(f"message {count}")
""",
            "the number alone",
        ),
    ],
    "short_only": [
        (
            "an exception will do",
            """
async def short_only(connection):
    async for message in connection:
        if len(message) > 20:
            raise ValueError("too long")
        await connection.send(message)
""",
            "becomes 1011",
        ),
        (
            "just close",
            """
async def short_only(connection):
    async for message in connection:
        if len(message) > 20:
            await connection.close()
        else:
            await connection.send(message)
""",
            "1000 means that all is well",
        ),
        (
            "no reason",
            """
async def short_only(connection):
    async for message in connection:
        if len(message) > 20:
            await connection.close(1008)
        else:
            await connection.send(message)
""",
            "saves the other side an hour",
        ),
        (
            "twenty is too long",
            """
async def short_only(connection):
    async for message in connection:
        if len(message) >= 20:
            await connection.close(1008, "too long")
        else:
            await connection.send(message)
""",
            "20 are not too many",
        ),
        (
            "bytes, not characters",
            """
async def short_only(connection):
    async for message in connection:
        if len(message.encode()) > 20:
            await connection.close(1008, "too long")
        else:
            await connection.send(message)
""",
            "counts characters",
        ),
        (
            "echo first",
            """
async def short_only(connection):
    async for message in connection:
        await connection.send(message)
        if len(message) > 20:
            await connection.close(1008, "too long")
""",
            "Look at the length first",
        ),
        (
            "ignore it",
            """
async def short_only(connection):
    async for message in connection:
        if len(message) <= 20:
            await connection.send(message)
""",
            "ends it, and then the handler is done",
        ),
    ],
    "nap": [
        (
            "await in front of it",
            """
import time


async def nap(connection):
    async for message in connection:
        await time.sleep(0.3)
        await connection.send(message)
""",
            "can be awaited",
        ),
        (
            "asyncio.sleep, without await",
            """
import asyncio


async def nap(connection):
    async for message in connection:
        asyncio.sleep(0.3)
        await connection.send(message)
""",
            "is asyncio.sleep(0.3) awaited",
        ),
        (
            "an async function around it",
            """
import time


async def wait():
    time.sleep(0.3)


async def nap(connection):
    async for message in connection:
        await wait()
        await connection.send(message)
""",
            "also inside a function that you call",
        ),
        (
            "a lock, to be safe",
            """
import asyncio

lock = None


async def nap(connection):
    global lock
    lock = lock or asyncio.Lock()
    async for message in connection:
        async with lock:
            await asyncio.sleep(0.3)
        await connection.send(message)
""",
            "lets one in at a time",
        ),
        (
            "a task for each message",
            """
import asyncio


async def nap(connection):
    async def answer(message):
        await asyncio.sleep(0.3)
        await connection.send(message)

    async with asyncio.TaskGroup() as tasks:
        async for message in connection:
            tasks.create_task(answer(message))
""",
            "start no task for each message",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(1, WRONG)
