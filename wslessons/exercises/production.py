"""Lesson 8's exercises: options that guard a server, who may come in, from where, and when again.

`make_token` and `read_token` stand for the login of an application: a name and an end, signed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from wslessons.exercises.exercise import Exercise, behaviour
from wslessons.exercises.trial import TIMEOUT, Client, Mismatch, Nothing, Trial
from wslessons.testing.raw import dial, handshake

__all__ = ["EXERCISES", "Guarded", "LetsIn", "NextDelay", "RealAddress", "make_token", "read_token"]

_KEY = b"for exercises only: everybody may read it"


def make_token(name: str, end: float) -> str:
    """Make a token that says who somebody is, and until when.

    Args:
        name: whose it is.
        end: when it ends, in seconds since 1970.

    Returns:
        The token, signed.
    """
    text = f"{name}.{end:.3f}"
    return f"{text}.{_signature(text)}"


def read_token(token: str) -> tuple[str, float] | None:
    """Read a token of `make_token`.

    >>> read_token(make_token("ann", 1_800_000_000))
    ('ann', 1800000000.0)

    Args:
        token: what somebody shows; any text.

    Returns:
        The name and the end, in seconds since 1970; None if it was not signed by us.
    """
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(text).encode()):
        return None
    name, end = text.split(".", 1)
    return name, float(end)


def _signature(text: str) -> str:
    return hmac.new(_KEY, text.encode(), hashlib.sha256).hexdigest()[:16]


class Guarded(Exercise):
    """Choose the options of `websockets.serve` for an echo that strangers can reach.

    A message has at most 16,384 bytes; a larger one ends the connection with 1009. No message is
    compressed, so none can grow when it is unpacked. Whoever has not finished the opening handshake
    after one second is cut off. And whoever means well is served, also over a slow line.
    """

    lesson = 8
    kind = "value"
    stub = """\
guarded = {}  # options of websockets.serve, such as {"server_header": None}
"""
    solution_source = """\
guarded = {"max_size": 16_384, "compression": None, "open_timeout": 1}
"""
    hints = (
        "Three options do it. `help(websockets.serve)` lists them, with their defaults.",
        "`max_size` counts bytes, `compression` can be `None`, and `open_timeout` counts seconds.",
    )
    most = 16_384

    def untouched(self, answer: Any) -> bool:
        """Tell whether there is no option at all."""
        return answer == {}

    @behaviour("a message of 16,384 bytes comes back, a larger one ends with 1009")
    async def size(self, trial: Trial) -> None:
        """At the bound, and above it."""
        url = await trial.stage("options")
        client = await trial.connect(url)
        hint = "16,384 bytes are allowed: max_size counts bytes, not KiB."
        await trial.asks(client, b"x" * self.most, b"x" * self.most, hint)
        await client.send(b"x" * (self.most + 1))
        before, end = await client.closing()
        hint = (
            "A larger message was taken in, and its bytes are held in memory until it is whole: set"
            " max_size, which is 1 MiB by default."
        )
        got = f"{len(before[0]):,} bytes came back" if before else end
        trial.require(not before and end.code == 1009, "close code 1009", got, hint)

    @behaviour("who offers to compress is served without it")
    async def compression(self, trial: Trial) -> None:
        """A client that offers permessage-deflate."""
        client = await trial.connect(await trial.stage("options"), compression="deflate")
        await trial.asks(client, "hello", "hello", "Whoever means well is served.")
        agreed = client.connection.protocol.extensions
        hint = (
            "The server agreed to unpack what clients compress: up to a thousand times their bytes,"
            " and work for the processor. compression is on by default."
        )
        trial.require(not agreed, "no extension", "permessage-deflate", hint)

    @behaviour("half a handshake is cut off after a second")
    async def half(self, trial: Trial) -> None:
        """A request that stops in the middle."""
        url = await trial.stage("options")
        try:
            async with trial.isolation.idle.timeout(TIMEOUT), dial(url) as raw:
                raw.send("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgr")
                await raw.rest()
        except TimeoutError:
            hint = (
                "Half a request, and the server waits for the rest: open_timeout is 10 s by default"
                ", long enough to fill all places for nothing."
            )
            raise Mismatch("an end after a second", Nothing("it still waits"), hint) from None

    @behaviour("a handshake over a slow line is answered")
    async def slow(self, trial: Trial) -> None:
        """A request in two halves, a moment apart."""
        url = await trial.stage("options")
        request, answer = handshake(host=url.removeprefix("ws://")), b""
        # A busy machine may spoil one attempt; a mistake spoils all three.
        for _ in range(3):
            with contextlib.suppress(OSError, TimeoutError):
                async with trial.isolation.idle.limit(TIMEOUT), dial(url) as raw:
                    raw.send(request[:40])
                    await asyncio.sleep(0.2)
                    raw.send(request[40:])
                    answer = await raw.reader.readline()
            if answer.startswith(b"HTTP/1.1 101"):
                return
        got = answer.decode("latin-1").strip() or "an end without an answer"
        hint = "A request may take a while on a bad line: leave it a second, as the task says."
        trial.require(False, "HTTP/1.1 101", Nothing(got), hint)


class LetsIn(Exercise):
    """Write `authenticate` for a chat: it says who somebody is, by the token in `opening.token`.

    `read_token(token)`, from `wslessons.exercises.production`, returns the name and the end of a
    token, or None for one that we did not sign, which has to be refused by
    `Denied("log in first", status=401)`. Whoever has a good one gets an `Identity` of that
    name, until the token ends. Both come from `wslessons.chat`.
    """

    lesson = 8
    kind = "async function"
    stub = """\
async def lets_in(opening):
    pass  # your code here
"""
    solution_source = """\
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token


async def lets_in(opening):
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first", status=401)
    name, end = found
    return Identity(name, name=name, until=end)
"""
    hints = (
        "`Denied` is an exception: raise it. An `Identity` is returned.",
        "`Identity(subject, name=..., until=...)`: the subject is what you know them by, the name"
        " what others see, and `until` the moment of its end, as `read_token` gives it.",
    )
    crash_hints = (
        (
            TypeError,
            "NoneType",
            "read_token returns None for a token that is none of ours: look before you take it"
            " apart.",
        ),
    )

    @behaviour("ann comes in with her token, as ann")
    async def comes_in(self, trial: Trial) -> None:
        """A token that lasts."""
        url = await trial.stage("chat")
        client = await self.enter(trial, url, make_token("ann", time.time() + 60))

        def hint(got: Any) -> str:
            if isinstance(got, Nothing) and got.code == 4401:
                return "until is a moment, in seconds since 1970, and not how long it lasts."
            if got == "Welcome, bob!":
                return "Whoever logged in as ann comes as bob: give the Identity her name."
            return "Return an Identity, with the token's name as its name."

        await trial.hears(client, "Welcome, ann!", hint)
        await trial.settle(client)
        ended = client.connection.close_code is not None
        trial.require(not ended, "an open connection", client.ending(), hint)

    @behaviour("without a token nobody comes in: 401")
    async def nobody(self, trial: Trial) -> None:
        """No header."""
        await self.refused(trial, await trial.stage("chat"), {})

    @behaviour("a token that is not signed by us is refused: 401")
    async def forged(self, trial: Trial) -> None:
        """A name and an end, and somebody else's signature."""
        url = await trial.stage("chat")
        good = make_token("bob", time.time() + 60)
        for token in (good.replace("bob", "ann"), "ann", f"ann.{time.time() + 60:.0f}.0"):
            await self.refused(trial, url, {"Authorization": f"Bearer {token}"})

    @behaviour("when the token ends, so does the connection: 4401")
    async def ends(self, trial: Trial) -> None:
        """A token that ends soon."""
        url = await trial.stage("chat")
        for _ in range(3):
            end = time.time() + 0.7
            client = await self.enter(trial, url, make_token("ann", end))
            _, ending = await client.closing()
            hint = (
                "The token has ended, and ann is still there, for as long as she likes: give the"
                " Identity the token's end."
            )
            trial.require(ending.code == 4401, "close code 4401", ending, hint)
            # The clock of the machine may be put forward, and one attempt be spoiled.
            if time.time() > end - 0.1:
                return
        hint = "It ended before the token did: until is the token's end, as read_token gives it."
        trial.require(False, "an end with the token", Nothing("an end too early"), hint)

    @staticmethod
    async def enter(trial: Trial, url: str, token: str) -> Client:
        """Connect with a token that is good, and say a name, which counts if the token has none.

        Args:
            trial: the world of one behaviour.
            url: the chat's.
            token: which is to be taken.

        Returns:
            The client.
        """
        headers = {"Authorization": f"Bearer {token}"}
        try:
            client = await trial.connect(url, additional_headers=headers)
        except Mismatch as error:
            hint = "This token is good: return an Identity for it."
            raise Mismatch("an open connection", error.got, hint) from error
        await client.send("bob")
        return client

    @staticmethod
    async def refused(trial: Trial, url: str, headers: dict[str, str]) -> None:
        """Connect in vain.

        Args:
            trial: the world of one behaviour.
            url: the chat's.
            headers: of the request.
        """
        status = await trial.handshake(url, additional_headers=headers)
        got = "it was let in" if status == 101 else f"the handshake was answered with {status}"
        hint = "Say no by raise Denied('log in first', status=401)."
        if status == 403:
            hint = "403 is for somebody who is known and may not. 401 says: log in first."
        elif status == 101 and headers:
            hint = "Anybody could have written that token: read_token tells whether we signed it."
        elif status == 101:
            hint = "Whoever shows nothing was let in: there, opening.token is empty."
        trial.require(status == 401, "401", Nothing(got), hint)


class RealAddress(Exercise):
    """Write a function that returns a client's address, behind proxies that may tell it.

    `peer` is the other end of the connection, `forwarded` the header `X-Forwarded-For` or None: a
    list with commas, to whose end each proxy adds who called it. Only our `proxies`, a set, are
    believed. So read it from the end, up to the first address that is none of them. What is no
    address ends the search at what was found so far.
    """

    lesson = 8
    stub = """\
def real_address(peer, forwarded, proxies):
    pass  # your code here
"""
    solution_source = """\
import ipaddress


def real_address(peer, forwarded, proxies):
    address = peer
    for told in reversed((forwarded or "").split(",")):
        if address not in proxies:
            break
        try:
            # Behind a % there may be any text: a zone, as in fe80::1%eth0.
            address = str(ipaddress.ip_address(told.strip().partition("%")[0]))
        except ValueError:
            break
    return address
"""
    hints = (
        "Begin with `peer`. As long as that is one of our proxies, what it has told comes next.",
        "`reversed(forwarded.split(','))` reads from the end; `strip()` takes the spaces off.",
        "`ipaddress.ip_address(text)` raises `ValueError` for what is no address.",
    )
    proxies = ("10.0.0.1", "10.0.0.2")

    async def _is(
        self, trial: Trial, peer: str, forwarded: str | None, expected: str, hint: Any
    ) -> None:
        got = await trial.call(peer, forwarded, set(self.proxies))
        if not isinstance(got, str):
            hint = "Return the address as text."
        trial.expect(got, expected, hint)

    @behaviour("who comes without a proxy is who they are, whatever they say")
    async def direct(self, trial: Trial) -> None:
        """No header; and one that the client has written itself."""
        await self._is(trial, "203.0.113.9", None, "203.0.113.9", "Nothing is told: it is peer.")
        hint = (
            "Everybody can write that header. It came from none of our proxies, so it counts for"
            " nothing."
        )
        await self._is(trial, "203.0.113.9", "198.51.100.1", "203.0.113.9", hint)

    @behaviour("behind a proxy it is whom that names, at the end of the list")
    async def behind(self, trial: Trial) -> None:
        """One entry; and one before it, which the client has sent along."""
        hint = "10.0.0.1 is a proxy of ours: the client is the one that it names."
        await self._is(trial, "10.0.0.1", "203.0.113.9", "203.0.113.9", hint)
        hint = (
            "The first entry came from the client, who can write what it likes. Only the last one"
            " is our proxy's."
        )
        await self._is(trial, "10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9", hint)
        await self._is(trial, "10.0.0.1", None, "10.0.0.1", "A proxy that names nobody is it.")

    @behaviour("two proxies in a row are both passed over")
    async def chain(self, trial: Trial) -> None:
        """A proxy behind a proxy; and a list of proxies alone."""

        def hint(got: Any) -> str:
            if got == "10.0.0.2":
                return "10.0.0.2 is one of ours, too: go on to what that one was told."
            return "Stop at the first that is none of our proxies: what stands before it, it wrote."

        told = "198.51.100.1, 203.0.113.9,10.0.0.2"
        await self._is(trial, "10.0.0.1", told, "203.0.113.9", hint)
        hint_alone = "There is nobody before it: the last one that was found is the answer."
        await self._is(trial, "10.0.0.1", "10.0.0.2", "10.0.0.2", hint_alone)

    @behaviour("what is no address gets nowhere, least of all into a log")
    async def nonsense(self, trial: Trial) -> None:
        """Words, line breaks, and a gap."""

        def hint(got: Any) -> str:
            if got == "203.0.113.9":
                return "What is no address ends the search: who wrote what stands before it?"
            return "That is no address, and would stand in your log. Keep what was found so far."

        for told in ("unknown", "6.6.6.6\n12:00 root logged in", "203.0.113.9, , ", "1.2.3.4.5"):
            await self._is(trial, "10.0.0.1", told, "10.0.0.1", hint)
        await self._is(trial, "10.0.0.1", "203.0.113.9, x, 10.0.0.2", "10.0.0.2", hint)

    def crash_hint(self, error: BaseException) -> str:
        """For a missing header, and for words that are no address."""
        if isinstance(error, AttributeError):
            return "Where there is no header, forwarded is None."
        if isinstance(error, ValueError):
            return "Anything can stand in a header: catch the ValueError of what is no address."
        return super().crash_hint(error)


class NextDelay(Exercise):
    """Write a function for a client that could not connect: seconds to wait, None to give up.

    `attempt` counts from 1; `status` is the HTTP status, or None where nobody answered. Without an
    answer, on 429 and from 500 on, wait 1, 2, 4, ... seconds, at most 60. Any other status: give
    up. `retry_after` is that header or None: seconds or an HTTP date. Wait at least so long,
    never more than 3,600. Nonsense in it counts for nothing.
    """

    lesson = 8
    stub = """\
def next_delay(attempt, status, retry_after):
    pass  # your code here
"""
    solution_source = """\
import contextlib
import time
from email.utils import parsedate_to_datetime


def next_delay(attempt, status, retry_after):
    if status is not None and status != 429 and status < 500:
        return None
    asked = 0
    try:
        asked = int(retry_after or 0)
    except ValueError:
        with contextlib.suppress(ValueError):
            asked = parsedate_to_datetime(retry_after).timestamp() - time.time()
    return max(min(2 ** (attempt - 1), 60), min(asked, 3600))
"""
    hints = (
        "First whether, then the back-off of your own, then what the server asks for: the larger of"
        " the two.",
        "`email.utils.parsedate_to_datetime` reads an HTTP date; it raises `ValueError` for what is"
        " none, as `int` does.",
    )

    async def _between(
        self, trial: Trial, args: tuple[Any, ...], least: float, most: float, hint: Any
    ) -> None:
        got = await trial.call(*args)
        number = isinstance(got, (int, float)) and not isinstance(got, bool)
        if number and math.isfinite(got) and least <= got <= most:
            return
        wanted = f"{least:g}" if least == most else f"{least:g} to {most:g}"
        trial.require(False, f"{wanted} for {args}", got, hint)

    @behaviour("nobody answers: 1, 2, 4, ... seconds, and never more than 60")
    async def backs_off(self, trial: Trial) -> None:
        """A server that is away."""

        def hint(got: Any) -> str:
            if got is None:
                return "Nobody answered, so the server may be back soon: that is worth a try."
            return "The first attempt that failed is followed by 1 second, then it doubles."

        for attempt, delay in ((1, 1), (2, 2), (5, 16)):
            await self._between(trial, (attempt, None, None), delay, delay, hint)
        hint_cap = "Doubling goes on for ever: at most 60 seconds."
        for attempt in (7, 5000):
            await self._between(trial, (attempt, 503, None), 60, 60, hint_cap)

    @behaviour("a no is a no: 401, 403 and 404 are not tried again")
    async def gives_up(self, trial: Trial) -> None:
        """What the next attempt will not change."""
        for status in (401, 403, 404):
            hint = "The next attempt would be answered just the same: return None."
            trial.expect(await trial.call(1, status, None), None, hint)
        hint = "429 is too many requests for now: wait, and try again."
        await self._between(trial, (1, 429, None), 1, 1, hint)

    @behaviour("Retry-After is the least to wait, as seconds or as a date")
    async def retry_after(self, trial: Trial) -> None:
        """30 seconds; 5 where we would wait 32; in 90 seconds by the clock."""
        hint = "The server knows better when it will be back: wait at least so long."
        await self._between(trial, (1, 503, "30"), 30, 30, hint)
        hint = "Your own back-off is longer, so it is what counts: take the larger one."
        await self._between(trial, (6, 503, "5"), 32, 32, hint)
        when = _http_date(time.time() + 90)
        hint = "It may be a date as well: then the seconds from now until that moment."
        await self._between(trial, (1, 503, when), 60, 91, hint)
        hint = "That date is over: there is nothing to wait for but your own back-off."
        await self._between(trial, (3, 503, _http_date(time.time() - 90)), 4, 4, hint)

    @behaviour("nonsense, and a year from now, keep nobody away")
    async def nonsense(self, trial: Trial) -> None:
        """What a mistaken or a hostile server may send."""
        hint = "A year is a mistake, or an attack: never more than 3,600 seconds."
        await self._between(trial, (1, 429, "31536000"), 3600, 3600, hint)
        hint = "That says nothing one could wait for: your own back-off is what is left."
        for told in ("soon", "-5", "", "nan", "1 day"):
            await self._between(trial, (2, 503, told), 2, 3600, hint)

    def crash_hint(self, error: BaseException) -> str:
        """For what is no number."""
        if isinstance(error, OverflowError):
            return "2.0 ** 5000 is too large for a float: cap the exponent, or use whole numbers."
        if isinstance(error, ValueError):
            return "Not every Retry-After is a number: catch the ValueError of what is none."
        return super().crash_hint(error)


def _http_date(moment: float) -> str:
    """Write a moment as HTTP does (RFC 9110, section 5.6.7)."""
    return format_datetime(datetime.fromtimestamp(moment, UTC), usegmt=True)


EXERCISES = (Guarded(), LetsIn(), RealAddress(), NextDelay())
