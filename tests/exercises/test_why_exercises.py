"""Lesson 0's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests, judge

from wslessons.exercises import check

POLITE = check.polite_poll.solution_source


def load(returned: str) -> str:
    """An answer to `poll_load`."""
    return f"def poll_load(tabs, interval, change_every):\n    return {returned}\n"


def cheap(returned: str) -> str:
    """An answer to `cheaper`."""
    return f"def cheaper(look_every, change_every, ping_every=20):\n    return {returned}\n"


WRONG = {
    "poll_load": [
        ("times", load("tabs * interval, 1 - interval / change_every"), "divide by it"),
        ("one tab", load("1 / interval, 1 - interval / change_every"), "one tab's share"),
        ("whole", load("tabs // interval, 1 - interval / change_every"), "cuts off"),
        ("news", load("tabs / interval, interval / change_every"), "share with news"),
        ("percent", load("tabs / interval, 100 * (1 - interval / change_every)"), "0.99"),
        ("below 0", load("tabs / interval, 1 - interval / change_every"), "max(0, ...)"),
        ("one number", load("tabs / interval"), "Return both"),
        ("the other way", load("tabs / interval, 1 - 1 / change_every"), "all others nothing"),
    ],
    "cheaper": [
        (
            "more is better",
            cheap("'polling' if 1 / look_every > 1 / change_every + 1 / ping_every else 'push'"),
            "fewer events per second are cheaper",
        ),
        (
            "no pings",
            cheap("'polling' if look_every > change_every else 'push'"),
            "come on top of the changes",
        ),
        (
            "always twenty",
            cheap("'polling' if 1 / look_every < 1 / change_every + 1 / 20 else 'push'"),
            "not always 20",
        ),
        ("pushing is modern", cheap("'push'"), "360 messages"),
        ("a boolean", cheap("look_every < change_every"), "one of the two words"),
        (
            "equal",
            cheap("'polling' if 1 / look_every <= 1 / change_every + 1 / ping_every else 'push'"),
            "At equal cost",
        ),
    ],
    "polite_poll": [
        (
            "no header",
            POLITE.replace("headers=known", ""),
            "say which state you know",
        ),
        (
            "the first for ever",
            POLITE.replace("if answer.status == 200:", "if not known:"),
            "still says the first ETag",
        ),
        (
            "no quotation marks",
            POLITE.replace('answer.headers["ETag"]', "answer.headers['ETag'].strip('\"')"),
            "with its quotation marks",
        ),
        (
            "every answer has one",
            POLITE.replace("if answer.status == 200:", "if True:"),
            "only a 200 has one",
        ),
        (
            "the answers are printed",
            POLITE.replace("    return statuses\n", "    print(statuses)\n"),
            "Return the list of statuses",
        ),
        (
            "once",
            POLITE.replace("range(times)", "range(1)"),
            "`times` questions",
        ),
        (
            "wait first",
            "import time\n\n\nasync def polite_poll(url, times):\n    time.sleep(60)\n",
            "nobody else is served",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(0, WRONG)


def test_a_mistake_is_shown_with_what_was_asked():
    """Unless that is an address. The hint's code is marked up in a notebook."""
    verdict = judge(check.poll_load, load("tabs / interval, 0.99"))
    [line] = [line for line in verdict.lines if "99%" in line.behaviour]
    assert line.expected == "a share of 0.5, from poll_load(500, 5, 10)"
    assert "<code>change_every / interval</code>" in verdict._repr_mimebundle_()["text/html"]
    verdict = judge(check.polite_poll, POLITE.replace("range(times)", "range(1)"))
    assert "polite_poll" not in "".join(line.expected for line in verdict.lines)
