"""Lesson 0's exercises: what polling and pushing cost, and a poller that asks politely."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from websockets import Request, Response, ServerConnection

from wslessons.errors import need
from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import Nothing, Trial

__all__ = ["EXERCISES", "Cheaper", "PolitePoll", "PollLoad"]


class PollLoad(Exercise):
    """Write a function that says what polling costs.

    Each of `tabs` tabs asks every `interval` seconds, and something changes every `change_every`
    seconds. Return two numbers: the requests per second of all tabs, and the share of the answers
    that say "nothing changed", from 0 to 1. Changes come at least an interval apart, or each
    answer brings news.
    """

    lesson = 0
    stub = """\
def poll_load(tabs, interval, change_every):
    pass  # your code here
"""
    solution_source = """\
def poll_load(tabs, interval, change_every):
    return tabs / interval, max(0, 1 - interval / change_every)
"""
    hints = (
        "One tab that asks every 2 seconds makes half a request per second.",
        "Of the questions that a tab asks between two changes, one is answered with news: one of"
        " `change_every / interval`.",
    )

    @behaviour("500 tabs that ask every 2 s make 250 requests per second")
    async def rate(self, trial: Trial) -> None:
        """The story of the lesson, and another one."""
        for tabs, interval, expected in ((500, 2, 250), (10, 4, 2.5)):
            got = pair(await trial.call(tabs, interval, 200))
            trial.require(
                got is not None,
                "two numbers",
                "something else",
                "Return both, with a comma between them: return rate, share.",
            )

            def hint(got: Any, tabs: int = tabs, interval: int = interval) -> str:
                if near(got, tabs * interval):
                    return "The longer the interval, the fewer requests: divide by it."
                if near(got, 1 / interval):
                    return "That is one tab's share: there are `tabs` of them."
                if near(got, tabs // interval):
                    return "// cuts off what stands after the point: use / here."
                return "Requests per second: how many tabs, and how often each of them asks."

            trial.require(
                near(got[0] if got else None, expected),
                f"{expected} requests per second",
                got[0] if got else None,
                hint,
            )

    @behaviour("with a change every 200 s, 99% of the answers bring nothing")
    async def share(self, trial: Trial) -> None:
        """The story's share, and one of a half."""
        for interval, change_every, expected in ((2, 200, 0.99), (5, 10, 0.5), (1, 4, 0.75)):
            got = pair(await trial.call(500, interval, change_every))
            value = got[1] if got else None

            def hint(got: Any, expected: float = expected) -> str:
                if near(got, 1 - expected):
                    return "That is the share with news: the rest of 1 brings nothing."
                if near(got, 100 * expected):
                    return "A share is from 0 to 1: 99% is 0.99."
                return "One in `change_every / interval` answers brings news, all others nothing."

            trial.require(near(value, expected), f"a share of {expected}", value, hint)

    @behaviour("a share is never below 0")
    async def fast(self, trial: Trial) -> None:
        """Data that changes faster than anybody asks."""
        got = pair(await trial.call(10, 60, 10))
        trial.require(
            near(got[1] if got else None, 0),
            "a share of 0",
            got[1] if got else None,
            "When things change faster than anybody asks, each answer brings news: the share of"
            " the others is 0. max(0, ...) helps.",
        )


class Cheaper(Exercise):
    """Write a function that says which is cheaper for one reader: "polling" or "push".

    A poller asks every `look_every` seconds. Whoever is pushed to gets one message for each change,
    every `change_every` seconds, and one ping every `ping_every` seconds. Return the way with
    fewer events per second; "push" if they are equal.
    """

    lesson = 0
    stub = """\
def cheaper(look_every, change_every, ping_every=20):
    pass  # your code here
"""
    solution_source = """\
def cheaper(look_every, change_every, ping_every=20):
    pushing = 1 / change_every + 1 / ping_every
    return "polling" if 1 / look_every < pushing else "push"
"""
    hints = (
        "What happens every 4 seconds happens 1 / 4 times per second.",
        "Pushing has two kinds of events, changes and pings: add their rates, and compare the sum"
        " with the poller's rate.",
    )

    @behaviour("the dashboard of the lesson: push")
    async def story(self, trial: Trial) -> None:
        """Asked every 2 s, changed every 200 s."""

        def hint(got: Any) -> str:
            if got == "polling":
                return "It asks 100 times for one change: fewer events per second are cheaper."
            if got in (True, False):
                return 'Return one of the two words, "polling" or "push".'
            return 'The words are "polling" and "push".'

        trial.expect(await trial.call(2, 200), "push", hint)

    @behaviour("who looks once an hour at busy data: polling")
    async def rare(self, trial: Trial) -> None:
        """360 pushes for each look."""
        trial.expect(
            await trial.call(3600, 10),
            "polling",
            "360 messages are pushed for each look that somebody takes: compare the two rates.",
        )

    @behaviour("the pings count, too")
    async def pings(self, trial: Trial) -> None:
        """Data that hardly ever changes, asked for every minute, pinged every 20 s."""
        hint = (
            "An open connection is pinged, even while nothing changes: 1 / ping_every events per"
            " second come on top of the changes."
        )
        trial.expect(await trial.call(60, 86_400), "polling", hint)
        trial.expect(
            await trial.call(60, 86_400, 120),
            "push",
            "`ping_every` is not always 20: use the argument.",
        )

    @behaviour("when both are equal: push")
    async def equal(self, trial: Trial) -> None:
        """One event in 4 s, by either way."""
        trial.expect(
            await trial.call(4, 8, 8), "push", "At equal cost the one that is told knows sooner."
        )


class PolitePoll(Exercise):
    """Write a poller that asks `url` `times` times and returns the list of the answers' statuses.

    With each question but the first it says, in the header `If-None-Match`, the `ETag` of the
    newest state that it was sent. So an answer without news is 304 and has no body and no ETag.
    """

    lesson = 0
    kind = "async function"
    stub = """\
async def polite_poll(url, times):
    pass  # your code here
"""
    solution_source = """\
import aiohttp


async def polite_poll(url, times):
    statuses, known = [], {}
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            async with session.get(url, headers=known) as answer:
                statuses.append(answer.status)
                if answer.status == 200:
                    known = {"If-None-Match": answer.headers["ETag"]}
    return statuses
"""
    hints = (
        "Begin with `known = {}` and ask with `headers=known`. After each 200, put the new ETag"
        " into it.",
        'It is `known = {"If-None-Match": answer.headers["ETag"]}`, quotation marks and all.',
        "Only a 200 brings a state: leave `known` alone after a 304.",
    )
    crash_hints = (
        (KeyError, "ETag", "A 304 brings no ETag, only a 200 has one: keep the one you know."),
    )

    @behaviour("three questions, and nothing changes: 200, 304, 304")
    async def still(self, trial: Trial) -> None:
        """A state that stays."""
        got, asked = await self.over(trial, [1, 1, 1])

        def hint(got: Any) -> str:
            if got is None:
                return "Return the list of statuses: numbers, such as answer.status."
            if got == [200, 200, 200] and not any(asked):
                return "Every answer has a body: say which state you know, in If-None-Match."
            if got == [200, 200, 200]:
                return "An ETag is compared letter by letter: send it with its quotation marks."
            if isinstance(got, list) and len(got) != 3:
                return "One status for each question, and `times` questions."
            return "The first question is asked without a state: nothing is known yet."

        trial.expect(got, [200, 304, 304], hint)

    @behaviour("a change is seen once: 200, 304, 200, 304")
    async def change(self, trial: Trial) -> None:
        """A state that changes before the third question."""
        got, _ = await self.over(trial, [1, 1, 2, 2])

        def hint(got: Any) -> str:
            if got == [200, 304, 200, 200]:
                return "It still says the first ETag: take the new one from each 200."
            return "After each 200 say the new ETag; after a 304 keep the one you have."

        trial.expect(got, [200, 304, 200, 304], hint)

    async def over(self, trial: Trial, states: list[int]) -> tuple[Any, list[str | None]]:
        """Let it poll a server whose state at question n is `states[n]`.

        Args:
            trial: the world of one behaviour.
            states: the state at each question; the last one stays.

        Returns:
            What the poller returned, and what it said in `If-None-Match` each time.
        """
        need("aiohttp", "push")
        asked: list[str | None] = []

        def answer(connection: ServerConnection, request: Request) -> Response:
            state = states[min(len(asked), len(states) - 1)]
            asked.append(request.headers.get("If-None-Match"))
            tag = f'"state-{state}"'
            if asked[-1] == tag:
                response = connection.respond(HTTPStatus.NOT_MODIFIED, "")
                del response.headers["Content-Type"], response.headers["Content-Length"]
                return response
            response = connection.respond(HTTPStatus.OK, f'{{"state": {state}}}')
            response.headers["ETag"] = tag
            return response

        async def never(connection: ServerConnection) -> None:
            await connection.close()

        url = await trial.serve_this(never, theirs=False, process_request=answer)
        got = await trial.call(
            url.replace("ws://", "http://"), len(states), hint="Ask `times` times, then return."
        )
        trial.require(
            bool(asked), "questions", Nothing("no question"), "Ask with session.get(url)."
        )
        return got, asked


def pair(got: Any) -> tuple[float, float] | None:
    """Return two numbers, or None if `got` is something else."""
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return None
    return (got[0], got[1]) if all(isinstance(n, (int, float)) for n in got) else None


def near(got: Any, expected: float) -> bool:
    """Whether `got` is that number, but for rounding."""
    return isinstance(got, (int, float)) and abs(got - expected) < 1e-6


EXERCISES = (PollLoad(), Cheaper(), PolitePoll())
