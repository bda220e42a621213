"""What goes wrong when."""

from __future__ import annotations

from wslessons.chaos.schedule import COMMON, KINDS, draw


def test_the_same_seed_gives_the_same_schedule():
    """And another one another."""
    assert draw(7, 300) == draw(7, 300)
    assert draw(7, 300) != draw(8, 300)
    assert draw("7", 300) == draw(7, 300)


def test_all_is_over_at_the_end():
    """Steps come in order, and each is undone before the end."""
    steps = draw(1, 600)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert all(step.at + step.seconds <= 600 for step in steps)
    assert all(0 <= step.which < 1 for step in steps)


def test_every_kind_comes_and_no_other():
    """In a long schedule each of the kinds that are possible comes, and only these do."""
    assert {step.kind for step in draw(1, 1200)} == set(COMMON)
    assert {step.kind for step in draw(1, 300, ["cut link", "crowd"])} == {"cut link", "crowd"}
    assert {step.kind for step in draw(1, 2400, KINDS)} == set(KINDS)
