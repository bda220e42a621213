"""Lesson 8's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

import time

from author import closing_tests

from wslessons.exercises.production import make_token, read_token

WRONG = {
    "guarded": [
        (
            "max_size is in KiB",
            'guarded = {"max_size": 16, "compression": None, "open_timeout": 1}',
            "not KiB",
        ),
        (
            "a queue of frames is a bound",
            'guarded = {"max_queue": 4, "compression": None, "open_timeout": 1}',
            "1 MiB by default",
        ),
        (
            "the bound on messages is all",
            'guarded = {"max_size": 16_384, "open_timeout": 1}',
            "on by default",
        ),
        (
            "who is silent will go by itself",
            'guarded = {"max_size": 16_384, "compression": None}',
            "10 s by default",
        ),
        (
            "the shorter the safer",
            'guarded = {"max_size": 16_384, "compression": None, "open_timeout": 0.05}',
            "on a bad line",
        ),
        (
            "an option that another library has",
            'guarded = {"max_message_size": 16_384}',
            "help(websockets.serve)",
        ),
        ("a list of names", 'guarded = ["max_size", "compression"]', "Write a dict"),
    ],
    "lets_in": [
        (
            "a name can be read without the key",
            """
from wslessons.chat import Denied, Identity

async def lets_in(opening):
    if not opening.token:
        raise Denied("log in first", status=401)
    name, _, rest = opening.token.partition(".")
    end = rest.rpartition(".")[0] or rest or 2e9
    return Identity(name, name=name, until=float(end))
""",
            "whether we signed it",
        ),
        (
            "None is nobody",
            """
from wslessons.chat import Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    name, end = read_token(opening.token)
    return Identity(name, name=name, until=end)
""",
            "before you take it apart",
        ),
        (
            "once in is in",
            """
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first", status=401)
    return Identity(found[0], name=found[0])
""",
            "still there",
        ),
        (
            "the subject is the name",
            """
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first", status=401)
    return Identity(found[0], until=found[1])
""",
            "comes as bob",
        ),
        (
            "until is how long",
            """
import time
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first", status=401)
    return Identity(found[0], name=found[0], until=found[1] - time.time())
""",
            "not how long it lasts",
        ),
        (
            "the status is 403, as it is by default",
            """
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first")
    return Identity(found[0], name=found[0], until=found[1])
""",
            "401 says: log in first",
        ),
        (
            "guests are welcome",
            """
from wslessons.chat import Denied, Identity
from wslessons.exercises.production import read_token

async def lets_in(opening):
    if not opening.token:
        return Identity("guest", name="guest")
    found = read_token(opening.token)
    if found is None:
        raise Denied("log in first", status=401)
    return Identity(found[0], name=found[0], until=found[1])
""",
            "shows nothing was let in",
        ),
    ],
    "real_address": [
        (
            "the header knows best",
            """
def real_address(peer, forwarded, proxies):
    return forwarded.split(",")[0].strip() if forwarded else peer
""",
            "counts for nothing",
        ),
        (
            "the client stands first",
            """
def real_address(peer, forwarded, proxies):
    if peer not in proxies or not forwarded:
        return peer
    return forwarded.split(",")[0].strip()
""",
            "The first entry came from the client",
        ),
        (
            "the last entry is the client",
            """
def real_address(peer, forwarded, proxies):
    if peer not in proxies or not forwarded:
        return peer
    return forwarded.split(",")[-1].strip()
""",
            "one of ours, too",
        ),
        (
            "whatever is there is an address",
            """
def real_address(peer, forwarded, proxies):
    address = peer
    for told in reversed((forwarded or "").split(",")):
        if address not in proxies or not told:
            break
        address = told.strip()
    return address
""",
            "would stand in your log",
        ),
        (
            "what is no address is passed over",
            """
import ipaddress

def real_address(peer, forwarded, proxies):
    address = peer
    for told in reversed((forwarded or "").split(",")):
        if address not in proxies:
            break
        try:
            address = str(ipaddress.ip_address(told.strip()))
        except ValueError:
            continue
    return address
""",
            "ends the search",
        ),
        (
            "there is always a header",
            """
def real_address(peer, forwarded, proxies):
    for told in reversed(forwarded.split(",")):
        if peer not in proxies:
            break
        peer = told.strip()
    return peer
""",
            "forwarded is None",
        ),
        (
            "a proxy's own list is not there",
            """
import ipaddress

def real_address(peer, forwarded, proxies):
    if peer not in proxies:
        return peer
    for told in reversed((forwarded or peer).split(",")):
        address = str(ipaddress.ip_address(told.strip()))
        if address not in proxies:
            return address
    return address
""",
            "catch the ValueError",
        ),
    ],
    "next_delay": [
        (
            "2 ** attempt",
            """
def next_delay(attempt, status, retry_after):
    return 2 ** attempt
""",
            "followed by 1 second",
        ),
        (
            "without an end",
            """
def next_delay(attempt, status, retry_after):
    return 2 ** (attempt - 1)
""",
            "at most 60",
        ),
        (
            "always again",
            """
def next_delay(attempt, status, retry_after):
    return min(2 ** (attempt - 1), 60)
""",
            "answered just the same",
        ),
        (
            "what the server says replaces all",
            """
def next_delay(attempt, status, retry_after):
    if status is not None and status != 429 and status < 500:
        return None
    return int(retry_after) if retry_after else min(2 ** (attempt - 1), 60)
""",
            "take the larger one",
        ),
        (
            "it is always a number",
            """
def next_delay(attempt, status, retry_after):
    if status is not None and status != 429 and status < 500:
        return None
    return max(int(retry_after or 0), min(2 ** (attempt - 1), 60))
""",
            "catch the ValueError",
        ),
        (
            "what is no number counts for nothing",
            """
def next_delay(attempt, status, retry_after):
    if status is not None and status != 429 and status < 500:
        return None
    try:
        asked = int(retry_after)
    except (TypeError, ValueError):
        asked = 0
    return max(asked, min(2 ** (attempt - 1), 60))
""",
            "a date as well",
        ),
        (
            "a server may ask for a year",
            """
import time
from email.utils import parsedate_to_datetime

def next_delay(attempt, status, retry_after):
    if status is not None and status != 429 and status < 500:
        return None
    asked = 0
    try:
        asked = int(retry_after or 0)
    except ValueError:
        try:
            asked = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            pass
    return max(asked, min(2 ** (attempt - 1), 60))
""",
            "A year is a mistake",
        ),
        (
            "429 is a no",
            """
def next_delay(attempt, status, retry_after):
    if status is not None and 400 <= status < 500:
        return None
    return min(2 ** (attempt - 1), 60)
""",
            "too many requests for now",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(8, WRONG)


def test_a_token_is_ours_or_none_at_all() -> None:
    """What is changed in any place, or is no token, is None; never an exception."""
    end = round(time.time() + 60, 3)
    token = make_token("ann", end)
    assert read_token(token) == ("ann", end)
    for other in ("", ".", "ann", token[:-1], token.replace("ann", "eve"), "x" + token, "ä.1.é"):
        assert read_token(other) is None
