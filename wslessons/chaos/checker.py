"""Judge what people have heard: which promise was broken, to whom, and by what.

The logs are all that it knows, and what everybody together has heard is its truth: an event that
one person has heard, with its number, has happened, so whoever was there has to have heard it, too,
or was told that something is missing there.

A log may lose its end, as when a copy is put back. That is in doubt whenever a broker was started
anew, and everybody is told, at one number. What was heard before a doubt may stand once more behind
it, for those who have not heard it: nobody could know that it had got so far. And what was on its
way to a log that was emptied may be heard in both lives of it, if its sender has no number of it
(it is in doubt, or was said in plain text).

| kind | what it means |
|---|---|
| `lost` | an event is missing, and no notice says so |
| `twice` | somebody heard a message twice, or it was published twice |
| `order` | numbers went backwards, or a sender's messages came in another order |
| `number` | one number stands for two events |
| `count` | a notice says that more or fewer events are missing than are |
| `unanswered` | something was said and neither acknowledged nor refused |
| `deaf` | at the end, when all was well again, somebody did not hear a last word |
| `ghost` | at the end a roster has somebody who is not there, or lacks somebody who is |
| `ended` | a client was sent away for good |
| `leak` | a server did not give back tasks or descriptors, or held too much memory |
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import msgspec

__all__ = [
    "Entered",
    "Entry",
    "Finding",
    "Heard",
    "Log",
    "Missed",
    "Saying",
    "Usage",
    "check",
    "check_usage",
]


SETTLED = 30.0
"""Seconds within which servers can tell each other how much they have said, whatever happens."""
DOUBTERS = 3
"""How many have to be told at one number, or everybody who is there, for a doubt."""
SPARE = 20
"""Events that nobody need have heard of: people who came, and were gone before they were told."""

MOMENT = 1.0
"""Seconds within which a client has read what it was sent."""


class Finding(msgspec.Struct, frozen=True):
    """A promise that was broken."""

    kind: str
    who: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.kind:10} {self.who}: {self.sentence}"


class Entered(msgspec.Struct, tag="entered"):
    """Somebody was let in, and what follows begins after `offset` of this life of the room."""

    time: float
    epoch: str
    offset: int


class Heard(msgspec.Struct, tag="heard"):
    """Somebody heard an event; `what` is different for each message."""

    time: float
    what: str
    offset: int = 0
    prev: int | None = None
    """The number of the room's event before it; None where numbers have no holes."""
    sender: str = ""
    """Who said it; empty for what nobody said, such as that somebody came."""


class Missed(msgspec.Struct, tag="missed"):
    """Somebody was told that `count` events are missing, the last of them at `offset`."""

    time: float
    count: int | None
    offset: int


Entry = Entered | Heard | Missed


class Saying(msgspec.Struct):
    """Something that was said, and what came of it."""

    what: str
    said: float
    """When, on the clock of the entries."""
    answered: float | None = None
    answer: str = ""
    """"ack", or the name of the error."""
    epoch: str = ""
    offset: int = 0


class Log(msgspec.Struct):
    """What one person said and heard."""

    name: str
    room: str
    entries: list[Entry] = []
    sayings: list[Saying] = []
    numbered: bool = True
    """Whether the protocol has numbers; plain text has none."""
    ended: str = ""
    """Why the client came to an end by itself, where it did."""
    left: bool = False
    """Whether they had left before the end, so that what was lost last could not be counted."""
    last_words: list[str] = []
    """What was said in the room at the end, when all was well again: it has to be heard."""
    roster: list[str] | None = None
    """Who is there, as the server said at the end."""
    present: list[str] = []
    """Who was really there."""


def check(logs: Iterable[Log], *, one_order: bool) -> list[Finding]:
    """Judge a run by its logs.

    Args:
        logs: one of each person.
        one_order: whether all servers have one order, as over a broker's log; without, each server
            has numbers of its own, and what is lost on the way to the others is only counted.

    Returns:
        What was broken; nothing if every promise was kept.
    """
    logs = list(logs)
    truth = _Truth(logs, one_order=one_order)
    findings = truth.findings
    for log in logs:
        findings += _Walk(log, truth).findings
        findings += _check_texts(log, truth)
        findings += _check_end(log)
        if log.numbered and not log.left and not one_order:
            findings += _check_losses(log, truth)
        if log.numbered and not one_order:
            findings += _check_inventions(log, truth)
    return findings


class _Truth:
    """What has happened, as everybody together has heard it."""

    def __init__(self, logs: list[Log], *, one_order: bool) -> None:
        self.findings: list[Finding] = []
        self.one_order = one_order
        self.events: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        """What stands at each number, by room and epoch."""
        self.prevs: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        """The number before each number."""
        self.sayings: dict[str, Saying] = {}
        self.senders: dict[str, str] = {}
        self.comings: dict[str, list[float]] = {}
        """When each who speaks plain text was let in, in order."""
        self.returns: dict[str, list[float]] = {}
        """When each was let in, in order."""
        self.refused: dict[str, list[float]] = {}
        """When each said what was refused, in order."""
        self.told: dict[str, list[float]] = {}
        """When each other one was told that nobody knows how many are missing, in order."""
        self.rooms: dict[str, list[str]] = defaultdict(list)
        """What was said in each room, in no order."""
        self.moves: dict[str, list[tuple[float, str, str]]] = defaultdict(list)
        """When who came or went in each room, and in which life of it that was heard, in order."""
        self.ends: dict[tuple[str, str], float] = defaultdict(float)
        """When each life of a room was over, as far as anybody knows."""
        self.doubts: dict[tuple[str, str], list[int]] = {}
        """Numbers up to which others may have heard what the log has lost, in order."""
        if one_order:
            self._find_doubts(logs)
        for log in logs:
            self.returns[log.name] = [e.time for e in log.entries if isinstance(e, Entered)]
            refused = [each.said for each in log.sayings if each.answer == "Refused"]
            self.refused[log.name] = sorted(refused)
            for saying in log.sayings:
                self.sayings[saying.what] = saying
                self.senders[saying.what] = log.name
                self.rooms[log.room].append(saying.what)
            if log.numbered:
                self._take(log)
                missed = [each for each in log.entries if isinstance(each, Missed)]
                self.told[log.name] = [each.time for each in missed if each.count is None]
            else:
                self.comings[log.name] = self.returns[log.name]
        for log in logs:
            for saying in log.sayings:
                if saying.answer == "ack" and saying.offset:
                    self._place(log.name, log.room, saying.epoch, saying.offset, saying.what, None)
        for moves in self.moves.values():
            moves.sort()
        if one_order:
            self._find_repeats()

    def _take(self, log: Log) -> None:
        epoch = ""
        for epoch, entries in _stays(log):
            self.ends[log.room, epoch] = max(self.ends[log.room, epoch], entries[-1].time)
            for entry in entries:
                if isinstance(entry, Heard):
                    if not entry.sender and entry.offset not in self.events[log.room, epoch]:
                        self.moves[log.room].append((entry.time, entry.what, epoch))
                    self._place(log.name, log.room, epoch, entry.offset, entry.what, entry.prev)
        if not log.left:
            self.ends[log.room, epoch] = math.inf

    def _find_doubts(self, logs: list[Log]) -> None:
        told: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
        people: Counter[tuple[str, str]] = Counter()
        for log in logs:
            for epoch, entries in _stays(log):
                people[log.room, epoch] += 1
                notices = [e for e in entries if isinstance(e, Missed) and e.count is None]
                told[log.room, epoch].update({notice.offset for notice in notices})
        for life, offsets in told.items():
            many = min(DOUBTERS, people[life])
            self.doubts[life] = sorted(each for each, count in offsets.items() if count >= many)

    def is_doubted(self, room: str, epoch: str, one: int, other: int) -> bool:
        """Return whether of two numbers one is before a doubt, and the other one behind it."""
        doubts = self.doubts.get((room, epoch), [])
        return bisect(doubts, one) != bisect(doubts, other)

    def _place(
        self, who: str, room: str, epoch: str, offset: int, what: str, prev: int | None
    ) -> None:
        stands = self.events[room, epoch].setdefault(offset, what)
        if stands != what:
            sentence = f"number {offset} in {room} is {what!r}, and for others it is {stands!r}"
            self.findings.append(Finding("number", who, sentence))
        if prev is not None:
            self.prevs[room, epoch][offset] = prev

    def _find_repeats(self) -> None:
        for (room, epoch), events in self.events.items():
            texts = [what for what in events.values() if what in self.senders]
            for what, count in Counter(texts).items():
                places = [offset for offset, each in events.items() if each == what]
                parts = {bisect(self.doubts.get((room, epoch), []), each) for each in places}
                if count > len(parts):
                    sentence = f"{what!r} stands at {places} in {room} ({epoch})"
                    self.findings.append(Finding("twice", self.senders[what], sentence))

    def in_order(self, sender: str, first: Saying, later: Saying) -> bool:
        """Return whether what was said first has to come first.

        Nobody who speaks plain text knows what has arrived: what they said before they came to
        another server may still wait in the one they left. A message goes out when its `send` ends,
        which may be a moment before the client has read that it was let in. And who is told that a
        log may have lost something says again what has no answer yet, behind what was said since.
        So does who did not hear that it was refused, in the middle of what was, since that answer
        went with the connection.
        """
        returns, refused = self.returns.get(sender, []), self.refused.get(sender, [])
        if bisect(returns, first.said) < bisect(returns, first.answered or first.said) and bisect(
            refused, first.said - MOMENT
        ) < bisect(refused, first.said + MOMENT):
            return False
        comings, doubts = self.comings.get(sender, []), self.told.get(sender, [])
        return bisect(comings, first.answered or first.said) == bisect(
            comings, (later.answered or later.said) + MOMENT
        ) and bisect(doubts, first.said) == bisect(doubts, first.answered or first.said)

    def number_of_moves(self, room: str, began: float, end: float) -> Counter[str]:
        """Return how often each came and went, on the server where that was heard most often."""
        moves = self.moves[room]
        part = moves[bisect(moves, (began, "", "")) : bisect(moves, (end, "", ""))]
        heard = Counter((what, epoch) for _, what, epoch in part)
        most: Counter[str] = Counter()
        for (what, _), count in heard.items():
            most[what] = max(most[what], count)
        return most

    def number_of_events(self, room: str, epoch: str, after: int, upto: int) -> tuple[int, bool]:
        """Return how many events there are in a part of the log, and whether that is all."""
        known = [each for each in self.events[room, epoch] if after < each <= upto]
        prevs = self.prevs[room, epoch]
        if not prevs:
            return upto - after, True
        place, count = upto, 0
        while place > after and place in prevs:
            place, count = prevs[place], count + 1
        return (count, True) if place == after else (len(known), False)


class _Walk:
    """Go through one log, entry by entry."""

    def __init__(self, log: Log, truth: _Truth) -> None:
        self.findings: list[Finding] = []
        self._log, self._truth = log, truth
        self._epoch = ""
        self._start = self._at = 0
        self._heard: dict[int, str] = {}
        self._gaps: list[tuple[int, int]] = []
        if not log.numbered:
            return
        for entry in log.entries:
            match entry:
                case Entered():
                    self._enter(entry)
                case Heard():
                    self._hear(entry)
                case Missed():
                    self._miss(entry)
        self._close()

    def _find(self, kind: str, sentence: str) -> None:
        self.findings.append(Finding(kind, self._log.name, sentence))

    def _enter(self, entry: Entered) -> None:
        if entry.epoch == self._epoch:
            # What happened meanwhile is to be heard, or missed, all the same.
            return
        self._close()
        self._epoch, self._start, self._at = entry.epoch, entry.offset, entry.offset
        self._heard, self._gaps = {}, []

    def _hear(self, entry: Heard) -> None:
        if entry.offset <= self._at:
            self._find("order", f"number {entry.offset} ({entry.what!r}) came after {self._at}")
        self._at = max(self._at, entry.offset)
        self._heard[entry.offset] = entry.what

    def _miss(self, entry: Missed) -> None:
        after, upto = self._at, max(self._at, entry.offset)
        if entry.count is not None and upto > after:
            count, whole = self._truth.number_of_events(self._log.room, self._epoch, after, upto)
            # What it had said itself may have been acknowledged before, and then is not missing.
            events = self._truth.events[self._log.room, self._epoch]
            own = sum(self._is_own(events[each]) for each in events if after < each <= upto)
            if entry.count < count - own or (whole and entry.count > count):
                at_least = "" if whole else "at least "
                self._find(
                    "count",
                    f"{entry.count} events are said to be missing between {after} and {upto}, and"
                    f" {at_least}{count} are, {own} of them its own",
                )
        self._gaps.append((after, upto))
        self._at = upto

    def _is_own(self, what: str) -> bool:
        return self._truth.senders.get(what) == self._log.name

    def _close(self) -> None:
        """Compare what was heard of one life of the room with what happened in it."""
        events = self._truth.events.get((self._log.room, self._epoch), {})
        for offset in sorted(events):
            if (
                self._start < offset <= self._at
                and offset not in self._heard
                and not self._is_own(events[offset])
                and not any(after < offset <= upto for after, upto in self._gaps)
                and not self._knows(events[offset], offset)
            ):
                sentence = f"{events[offset]!r}, number {offset}, is missing, and nothing says so"
                self._find("lost", sentence)

    def _knows(self, what: str, offset: int) -> bool:
        """Return whether that was heard before a doubt, behind which a server may tell it again.

        Who has come back since may have been told of as gone once more, where a server had
        forgotten that it was said: names don't tell one connection from the next.
        """
        before = [each for each, heard in self._heard.items() if each < offset and heard == what]
        return bool(before) and self._truth.is_doubted(
            self._log.room, self._epoch, min(before), offset
        )


def _check_texts(log: Log, truth: _Truth) -> list[Finding]:
    """Look for messages that came twice, and for senders whose messages came in another order."""
    findings: list[Finding] = []
    seen: dict[str, tuple[str, int]] = {}
    newest: dict[str, Saying] = {}
    epoch = ""
    for entry in log.entries:
        if isinstance(entry, Entered):
            epoch = entry.epoch
            if not log.numbered:
                # It can't say what it has heard, and the new server may have read less than the
                # old.
                seen, newest = {}, {}
        if not isinstance(entry, Heard) or not entry.sender:
            continue
        before_it, number = seen.get(entry.what, ("", 0))
        saying = truth.sayings.get(entry.what)
        if before_it == epoch:
            doubted = truth.is_doubted(log.room, epoch, number, entry.offset)
        else:
            doubted = truth.one_order and saying is not None and not saying.offset
        if entry.what in seen and not doubted:
            findings.append(Finding("twice", log.name, f"{entry.what!r} was heard twice"))
        seen[entry.what] = epoch, entry.offset
        if saying is None or saying.answer != "ack":
            # What its sender has given up may still come, at any time.
            continue
        before = newest.get(entry.sender)
        late = before is not None and saying.said < before.said
        if before is not None and late and truth.in_order(entry.sender, saying, before):
            sentence = f"{entry.what!r} came after {before.what!r}, and was said before"
            findings.append(Finding("order", log.name, sentence))
        elif not late:
            newest[entry.sender] = saying
    return findings


def _check_end(log: Log) -> list[Finding]:
    findings = [
        Finding("unanswered", log.name, f"nothing came of {saying.what!r}")
        for saying in log.sayings
        if not saying.answer
    ]
    if log.ended:
        findings.append(Finding("ended", log.name, log.ended))
    heard = {entry.what for entry in log.entries if isinstance(entry, Heard)}
    own = {saying.what for saying in log.sayings}
    findings += [
        Finding("deaf", log.name, f"the last word {what!r} was not heard")
        for what in log.last_words
        if what not in heard and what not in own
    ]
    if log.roster is not None:
        for name in sorted({*log.roster} - {*log.present}):
            findings.append(Finding("ghost", log.name, f"{name} is in the roster, and not there"))
        for name in sorted({*log.present} - {*log.roster}):
            findings.append(Finding("ghost", log.name, f"{name} is there, and not in the roster"))
    return findings


def _check_losses(log: Log, truth: _Truth) -> list[Finding]:
    """Compare what was said elsewhere during each stay with what was heard or said to be missing.

    What was said shortly before either server died is left out: nobody could count it any more.
    """
    findings: list[Finding] = []
    heard = {entry.what for entry in log.entries if isinstance(entry, Heard)}
    for epoch, entries in _stays(log):
        start = entries[0]
        # At the start it stands for what happened before.
        counts = [e.count for e in entries if isinstance(e, Missed) and e.offset > start.offset]
        if None in counts:
            continue
        began, end = start.time, truth.ends[log.room, epoch] - SETTLED
        if entries[-1] is not log.entries[-1]:
            end = min(end, entries[-1].time - SETTLED)
        lost = [
            saying.what
            for saying in map(truth.sayings.__getitem__, truth.rooms[log.room])
            if saying.what not in heard
            and saying.answer == "ack"
            and truth.senders[saying.what] != log.name
            and began < saying.said < min(end, truth.ends[log.room, saying.epoch] - SETTLED)
        ]
        if len(lost) > sum(filter(None, counts)):
            told = f"notices say {sum(filter(None, counts))}"
            sentence = f"{len(lost)} messages are missing, such as {lost[0]!r}, and {told}"
            findings.append(Finding("lost", log.name, sentence))
    return findings


def _check_inventions(log: Log, truth: _Truth) -> list[Finding]:
    """Compare what is said to be missing with all that somebody can have missed at that time."""
    findings: list[Finding] = []
    for _, entries in _stays(log):
        start = entries[0]
        heard = {entry.what for entry in entries if isinstance(entry, Heard)}
        sayings = [truth.sayings[what] for what in truth.rooms[log.room] if what not in heard]
        unheard = sorted(saying.said for saying in sayings)
        notices = [e for e in entries if isinstance(e, Missed) and e.offset > start.offset]
        for notice in notices:
            end, began = notice.time, notice.time - SETTLED
            told = sum(each.count or 0 for each in notices if began < each.time <= end)
            # What was said before may be counted as late as that.
            possible = SPARE + bisect(unheard, end) - bisect(unheard, began - SETTLED)
            if told > possible:
                moves = truth.number_of_moves(log.room, began - SETTLED, end)
                mine = (
                    e.what for e in entries if isinstance(e, Heard) and e.time > began - SETTLED
                )
                possible += (moves - Counter(mine)).total()
            if told > possible:
                sentence = (
                    f"{told} events are said to be missing from {began:.1f} to {end:.1f}, and it"
                    f" can't be more than {possible}"
                )
                findings.append(Finding("count", log.name, sentence))
                break
    return findings


def _stays(log: Log) -> Iterator[tuple[str, list[Entry]]]:
    """Yield what somebody heard in each life of the room, each beginning with `Entered`."""
    epoch, entries = "", []
    for entry in log.entries:
        if isinstance(entry, Entered) and entry.epoch != epoch:
            if entries:
                yield epoch, entries
            epoch, entries = entry.epoch, []
        entries.append(entry)
    if entries:
        yield epoch, entries


class Usage(msgspec.Struct):
    """What a server had at the beginning, or when all had left."""

    tasks: int
    descriptors: int
    memory: int
    """Bytes; when all had left, the most that it ever held."""


def check_usage(
    before: Mapping[str, Usage], after: Mapping[str, Usage], *, spare: int = 8, grown: int = 2**28
) -> list[Finding]:
    """Judge what servers have given back.

    Args:
        before: what each had before anybody came.
        after: the same, when all had left.
        spare: tasks and descriptors that it may have more, as for another connection to a broker.
        grown: bytes of memory that it may have more.

    Returns:
        What was not given back.
    """
    findings: list[Finding] = []
    for name, usage in after.items():
        was = before[name]
        for what, has, had, more in (
            ("tasks", usage.tasks, was.tasks, spare),
            ("descriptors", usage.descriptors, was.descriptors, spare),
            ("bytes of memory", usage.memory, was.memory, grown),
        ):
            if has > had + more:
                sentence = f"{has:,} {what} when all had left, and {had:,} before they came"
                findings.append(Finding("leak", name, sentence))
    return findings
