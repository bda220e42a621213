"""The checker against logs that are right, and against each kind of fault in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wslessons.chaos.checker import (
    Entered,
    Finding,
    Heard,
    Log,
    Missed,
    Saying,
    Usage,
    check,
    check_usage,
)

Logs = dict[str, Log]


def kinds(findings: list[Finding]) -> list[str]:
    """Return what was found, in order, each kind once."""
    return sorted({finding.kind for finding in findings})


def said(what: str, offset: int, at: float, epoch: str = "e") -> Saying:
    """Something that was said and acknowledged."""
    return Saying(what, at, at + 0.5, "ack", epoch, offset)


def right() -> Logs:
    """Three people in a room, whose numbers have holes, and of whom the third came later.

    ann said `a1` (number 13) and `a2` (18), bob said `b1` (15).
    """
    a1 = Heard(1.0, "a1", 13, 10, "ann")
    b1 = Heard(2.0, "b1", 15, 13, "bob")
    a2 = Heard(3.0, "a2", 18, 15, "ann")
    logs = [
        Log("ann", "/", [Entered(0.0, "e", 10), b1], [said("a1", 13, 1.0), said("a2", 18, 3.0)]),
        Log("bob", "/", [Entered(0.0, "e", 10), a1, a2], [said("b1", 15, 2.0)]),
        Log("eve", "/", [Entered(1.5, "e", 13), b1, a2]),
    ]
    for log in logs:
        log.last_words, log.roster, log.present = ["a2"], ["ann", "bob"], ["ann", "bob"]
    return {log.name: log for log in logs}


def test_what_is_right_is_left_alone():
    """A run in which every promise was kept has no findings, in one order or in several."""
    assert check(right().values(), one_order=True) == []
    assert check(right().values(), one_order=False) == []


def test_notices_with_right_counts_are_right():
    """What is missing and said to be so is no fault; own messages may be counted or not."""
    logs = right()
    logs["eve"].entries = [Entered(1.0, "e", 10), Missed(3.0, 2, 15), logs["eve"].entries[-1]]
    assert check(logs.values(), one_order=True) == []
    logs = right()
    for count in (1, 2):
        # Number 13 is ann's own.
        logs["ann"].entries = [Entered(0.0, "e", 10), Missed(3.0, count, 15)]
        assert check(logs.values(), one_order=True) == []


def test_a_notice_on_coming_back_covers_all_since_one_left():
    """Who comes back too late is told so by the notice that follows the welcome."""
    logs = right()
    entries = logs["eve"].entries
    logs["eve"].entries = [Entered(1.0, "e", 10), Entered(2.5, "e", 15), entries[-1]]
    assert kinds(check(logs.values(), one_order=True)) == ["lost"]
    logs["eve"].entries.insert(2, Missed(2.5, None, 15))
    assert check(logs.values(), one_order=True) == []


def test_plain_text_begins_anew_with_each_connection():
    """Without numbers, another server that has read less tells the same once more."""
    logs = right()
    repeat_in_text(logs)
    logs["old"].entries.insert(1, Entered(1.5, "", 0))
    assert check(logs.values(), one_order=True) == []


@pytest.mark.parametrize("moved", [False, True])
def test_plain_text_keeps_its_order_on_one_connection(moved: bool):
    """What its sender said before they came to another server may wait in the one they left."""
    logs = right()
    swap(logs)
    logs["ann"].numbered = False
    logs["ann"].entries = [Entered(0.0, "", 0)]
    if moved:
        logs["ann"].entries.append(Entered(2.0, "", 0))
    assert ("order" in kinds(check(logs.values(), one_order=True))) is not moved


def test_a_new_life_of_the_room_is_no_fault():
    """What is left of the old life, and what the new one says is gone, need not be heard."""
    logs = right()
    again = Heard(6.0, "a2", 2, 1, "ann")
    logs["ann"].sayings[1] = said("a2", 2, 5.0, "f")
    logs["bob"].entries = [Entered(0.0, "e", 10), logs["bob"].entries[1]]
    for log in logs.values():
        log.entries = [entry for entry in log.entries if getattr(entry, "what", "") != "a2"]
        log.entries += [Entered(4.0, "f", 0), Missed(4.0, None, 1)]
        if log.name != "ann":
            log.entries.append(again)
    assert check(logs.values(), one_order=True) == []


def drop(logs: Logs) -> None:
    """Bob did not hear `a1`, between what he heard."""
    del logs["bob"].entries[1]


def jump(logs: Logs) -> None:
    """Eve came back, and was told to begin after what she had not heard."""
    logs["eve"].entries = [Entered(1.0, "e", 10), Entered(2.5, "e", 15), logs["eve"].entries[-1]]


def repeat(logs: Logs) -> None:
    """Bob heard `a1` twice, under two numbers."""
    logs["bob"].entries.insert(2, Heard(2.5, "a1", 16, 15, "ann"))


def repeat_in_text(logs: Logs) -> None:
    """Somebody who speaks plain text heard a line twice."""
    lines = [Heard(1.0, "a1", sender="ann"), Heard(2.0, "a1", sender="ann")]
    logs["old"] = Log("old", "/", [*lines, Heard(3.0, "a2", sender="ann")], numbered=False)


def go_back(logs: Logs) -> None:
    """Bob heard 18 before 13."""
    logs["bob"].entries[1:] = reversed(logs["bob"].entries[1:])


def swap(logs: Logs) -> None:
    """The log has ann's second message before her first."""
    logs["ann"].sayings = [said("a2", 13, 3.0), said("a1", 18, 1.0)]
    logs["bob"].entries[1:] = [Heard(1.0, "a2", 13, 10, "ann"), Heard(3.0, "a1", 18, 15, "ann")]
    logs["eve"].entries[-1] = Heard(3.0, "a1", 18, 15, "ann")


def test_a_refusal_that_was_lost_excuses_an_order():
    """Ann said too much at once, her connection broke, and what had been refused was taken then."""
    logs = right()
    swap(logs)
    assert "order" in kinds(check(logs.values(), one_order=True))
    first = logs["ann"].sayings[1]
    first.answered = 2.5
    logs["ann"].sayings.append(Saying("a0", first.said, first.said + 0.1, "Refused"))
    assert "order" in kinds(check(logs.values(), one_order=True))
    logs["ann"].entries.insert(1, Entered(first.said + 0.5, "e", 10))
    assert "order" not in kinds(check(logs.values(), one_order=True))


def renumber(logs: Logs) -> None:
    """Number 15 is `b1` for ann, and something else for eve."""
    logs["eve"].entries[1] = Heard(2.0, "c1", 15, 13, "carol")


def acknowledge_wrongly(logs: Logs) -> None:
    """Bob's message was acknowledged with the number of another."""
    logs["bob"].sayings[0].offset = 13


def count_too_few(logs: Logs) -> None:
    """Eve missed two events, and was told one."""
    logs["eve"].entries = [Entered(1.0, "e", 10), Missed(3.0, 1, 15), logs["eve"].entries[-1]]


def count_too_many(logs: Logs) -> None:
    """Eve missed two events, and was told three."""
    logs["eve"].entries = [Entered(1.0, "e", 10), Missed(3.0, 3, 15), logs["eve"].entries[-1]]


def leave_unanswered(logs: Logs) -> None:
    """Nothing came of what bob said."""
    logs["bob"].sayings.append(Saying("b2", 4.0))


def swallow(logs: Logs) -> None:
    """What bob said was acknowledged, and nobody heard it."""
    for log in logs.values():
        log.entries = [entry for entry in log.entries if getattr(entry, "what", "") != "b1"]


def go_deaf(logs: Logs) -> None:
    """Eve hears nothing from some moment on, not even the last word."""
    del logs["eve"].entries[2:]


def haunt(logs: Logs) -> None:
    """The roster has somebody who is gone."""
    logs["ann"].roster = ["ann", "bob", "zoe"]


def overlook(logs: Logs) -> None:
    """The roster lacks somebody who is there."""
    logs["ann"].roster = ["bob"]


def send_away(logs: Logs) -> None:
    """Bob's client came to an end by itself."""
    logs["bob"].ended = "the server closed the connection for good: 1008."


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (drop, "lost"),
        (jump, "lost"),
        (swallow, "lost"),
        (repeat, "twice"),
        (repeat_in_text, "twice"),
        (go_back, "order"),
        (swap, "order"),
        (renumber, "number"),
        (acknowledge_wrongly, "number"),
        (count_too_few, "count"),
        (count_too_many, "count"),
        (leave_unanswered, "unanswered"),
        (go_deaf, "deaf"),
        (haunt, "ghost"),
        (overlook, "ghost"),
        (send_away, "ended"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_each_fault_is_found(spoil: Callable[[Logs], None], kind: str):
    """A log in which one thing is wrong has a finding of that kind."""
    logs = right()
    spoil(logs)
    assert kind in kinds(check(logs.values(), one_order=True))


def doubtful(told: int, *, text: bool) -> Logs:
    """A log that lost its end: ann and cy had heard what bob and eve did not. It stands once more
    behind the number 20, up to which `told` people hear that something may be missing.
    """
    heard = Heard(1.0, "x1" if text else "bob left", 13, 10, "dan" if text else "")
    logs = [Log(name, "/", [Entered(0.0, "e", 10)]) for name in ("ann", "bob", "cy", "eve")]
    for log in logs:
        log.entries += [heard] * (log.name in ("ann", "cy")) + [Missed(2.0, None, 20)]
        again = Heard(3.0, heard.what, 25, 20, heard.sender)
        log.entries += [again] * (log.name in ("bob", "eve"))
        log.entries.append(Heard(4.0, "y1", 28, 25, "dan"))
    for log in logs[told:]:
        log.entries = [each for each in log.entries if not isinstance(each, Missed)]
    sayings = [said("x1", 13, 0.5)] * text + [said("y1", 28, 3.5)]
    return {log.name: log for log in [*logs, Log("dan", "/", [], sayings)]}


@pytest.mark.parametrize("text", [True, False])
def test_what_a_log_lost_may_stand_in_it_once_more(text: bool):
    """Behind a number up to which everybody is told that something may be missing."""
    assert check(doubtful(4, text=text).values(), one_order=True) == []
    found = kinds(check(doubtful(2, text=text).values(), one_order=True))
    assert found == ["lost", "twice"] if text else ["lost"]
    logs = doubtful(4, text=False)
    # Who has left and come back has to be heard to leave again.
    logs["ann"].entries.insert(3, Heard(2.5, "bob joined", 23, 20))
    assert "lost" in kinds(check(logs.values(), one_order=True))


def test_who_hears_something_twice_before_a_doubt_has_heard_it_twice():
    """And so has who hears it twice behind it."""
    logs = doubtful(4, text=True)
    logs["ann"].entries.insert(2, Heard(1.5, "x1", 14, 13, "dan"))
    assert "twice" in kinds(check(logs.values(), one_order=True))


@pytest.mark.parametrize(("answer", "found"), [("Unconfirmed", []), ("ack", ["twice"])])
def test_what_is_in_doubt_may_be_heard_in_both_lives_of_a_log(answer: str, found: list[str]):
    """Only if its sender was not told a number of it."""
    logs = right()
    for log in logs.values():
        log.entries += [Entered(9.0, "f", 0), Heard(9.5, "x1", 1, 0, "dan")]
    logs["bob"].entries.insert(2, Heard(1.5, "x1", 14, 13, "dan"))
    logs["ann"].entries.insert(1, Heard(1.5, "x1", 14, 10, "dan"))
    logs["eve"].entries.insert(1, Heard(1.5, "x1", 14, 13, "dan"))
    place = ("f", 1) if answer == "ack" else ("", 0)
    logs["dan"] = Log("dan", "/", [], [Saying("x1", 1.0, 2.0, answer, *place)])
    assert kinds(check(logs.values(), one_order=True)) == found


def several() -> Logs:
    """Two servers without one order: ann is on one, bob and eve are on the other."""
    logs = [
        Log("ann", "/", [Entered(0.0, "x", 5), Heard(2.0, "b1", 7, 6, "bob")]),
        Log("bob", "/", [Entered(0.0, "y", 0), Heard(1.0, "a1", 1, 0, "ann")]),
        Log("eve", "/", [Entered(0.0, "y", 0)]),
    ]
    a1, b1 = Heard(1.0, "a1", 1, 0, "ann"), Heard(2.0, "b1", 2, 1, "bob")
    logs[2].entries += [a1, b1, Heard(3.0, "a2", 3, 2, "ann")]
    logs[1].entries.append(Heard(3.0, "a2", 3, 2, "ann"))
    logs[0].sayings = [said("a1", 6, 1.0, "x"), said("a2", 8, 3.0, "x")]
    logs[1].sayings = [said("b1", 2, 2.0, "y")]
    return {log.name: log for log in logs}


def test_numbers_of_several_servers_are_their_own():
    """Without one order each server has numbers of its own, and that is right."""
    assert check(several().values(), one_order=False) == []


@pytest.mark.parametrize(("notice", "expected"), [(None, ["lost"]), (0, ["lost"]), (1, [])])
def test_what_is_lost_between_servers_is_to_be_counted(notice: int | None, expected: list[str]):
    """A message of another server that somebody never hears has to be in the counts."""
    logs = several()
    for name in ("bob", "eve"):
        entries = [each for each in logs[name].entries if getattr(each, "what", "") != "a1"]
        logs[name].entries = entries
        if notice is not None:
            entries.insert(1, Missed(1.0, notice, 1))
    assert kinds(check(logs.values(), one_order=False)) == expected


@pytest.mark.parametrize(("count", "times", "found"), [(2, 1, False), (40, 1, True), (8, 5, True)])
def test_losses_that_are_invented_are_found(count: int, times: int, found: bool):
    """More is said to be missing than somebody can have missed, in one notice or in several; a few
    are not judged, since somebody may have come and gone unheard.
    """
    logs = several()
    notices = [Missed(3.0 + place, count, 4 + place) for place in range(times)]
    logs["eve"].entries += notices
    logs["eve"].left = True
    assert kinds(check(logs.values(), one_order=False)) == (["count"] if found else [])
    logs["eve"].numbered = False
    assert check(logs.values(), one_order=False) == []


def test_what_a_server_said_before_it_died_is_judged_but_for_its_end():
    """Of a stay that is over, nobody could count what was said in its last moments."""
    for said_at, expected in ((100.0, ["lost"]), (190.0, [])):
        logs = several()
        logs["ann"].sayings.append(said("a3", 9, said_at, "x"))
        for log in logs.values():
            # The server of ann is started again.
            log.entries.append(Heard(200.0, "zoe joined", 10))
            log.entries.append(Entered(300.0, "z" if log.name == "ann" else "y", 10))
        assert kinds(check(logs.values(), one_order=False)) == expected


def test_what_is_said_again_after_a_doubt_may_come_later():
    """Who is told of a possible loss repeats what has no answer, behind what was said since."""
    first, later = Saying("a", 1.0, 9.0, "ack", "x", 3), Saying("b", 2.0, 4.0, "ack", "x", 2)
    heard = [Entered(0.0, "x", 0), Heard(0.5, "c", 1, sender="bob")]
    heard += [Heard(4.0, "b", 2, sender="ann"), Heard(9.0, "a", 3, sender="ann")]
    logs = [Log("ann", "/", list(heard), [first, later]), Log("bob", "/", list(heard))]
    logs[1].sayings = [Saying("c", 0.2, 0.5, "ack", "x", 1)]
    assert kinds(check(logs, one_order=True)) == ["order"]
    logs[0].entries.insert(2, Missed(3.0, None, 1))
    assert check(logs, one_order=True) == []


def test_what_happens_after_somebody_left_is_no_loss():
    """Who left before the end could not hear what came then, nor be told how much was lost."""
    logs = several()
    logs["bob"].entries, logs["bob"].left = logs["bob"].entries[:1], True
    assert check(logs.values(), one_order=False) == []


def test_an_unknown_number_covers_all():
    """A notice that nobody could count may stand for anything; the first says what was before."""
    logs = several()
    entries = [logs["bob"].entries[0], Missed(1.0, None, 1), logs["bob"].entries[2]]
    logs["bob"].entries = entries
    assert check(logs.values(), one_order=False) == []
    entries[1] = Missed(0.0, None, 0)
    assert kinds(check(logs.values(), one_order=False)) == ["lost"]


def test_what_is_not_given_back_is_found():
    """Tasks, descriptors and memory may grow by so much and no more."""
    before = {"server 1": Usage(10, 20, 50 << 20)}
    assert check_usage(before, {"server 1": Usage(12, 22, 90 << 20)}) == []
    assert check_usage(before, {}) == []
    after = {"server 1": Usage(40, 50, 900 << 20)}
    found = check_usage(before, after)
    assert [finding.kind for finding in found] == ["leak"] * 3
    assert found[0].sentence == "40 tasks when all had left, and 10 before they came"
