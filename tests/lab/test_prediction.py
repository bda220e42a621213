"""Predictions: asked before an experiment, revealed after it, and never in its way."""

from __future__ import annotations

import pytest

from wslessons import lab
from wslessons.errors import UserError

QUESTION, CHOICES = "How many lines does bob get?", [0, 256, 400]


def test_its_text_is_the_same_at_each_run():
    """What nbval compares is the question with its choices, whatever was chosen before."""
    guess = lab.predict(QUESTION, CHOICES)
    text = f"{QUESTION}\n( ) 0\n( ) 256\n( ) 400"
    assert guess._repr_mimebundle_()["text/plain"] == text
    guess.choice = "256"
    guess.reveal(61)
    assert guess._repr_mimebundle_()["text/plain"] == text
    assert lab.predict(QUESTION, CHOICES)._repr_mimebundle_()["text/plain"] == text


def test_revealing_shows_both_side_by_side():
    """The choice and what happened, without a verdict; then the choice stays as it is."""
    guess = lab.predict(QUESTION, CHOICES)
    guess.choice = "256"
    outcome = guess.reveal("bob got 61 of 400")
    assert repr(outcome) == "You predicted: 256\nIt happened:   bob got 61 of 400"
    assert guess._radio.disabled
    assert guess._answer.value == outcome.drawn["text/html"]


def test_an_experiment_runs_without_a_prediction():
    """With no choice made nothing fails, and the page says so."""
    outcome = lab.predict(QUESTION, CHOICES).reveal(61)
    assert repr(outcome) == "You predicted: (no choice made)\nIt happened:   61"
    assert "no choice made" in outcome.drawn["text/html"]


def test_hostile_texts_stay_texts():
    """Question, choices and answer are escaped wherever HTML is made of them."""
    guess = lab.predict("<i>?", ["<b>1", "<b>2"])
    guess.choice = "<b>2"
    pages = guess._repr_mimebundle_()["text/html"] + guess.reveal("<u>").drawn["text/html"]
    assert not [hostile for hostile in ("<i>?", "<b>1", "<b>2", "<u>") if hostile in pages]


@pytest.mark.parametrize("choices", [[], ["one"], "yes", ["a", "a"], [1, "1"]])
def test_choices_that_are_no_choices_are_refused(choices: list[object]):
    """A question needs two different answers."""
    with pytest.raises(UserError, match="two choices or more"):
        lab.predict(QUESTION, choices)


def test_a_choice_that_is_not_offered_is_refused():
    """A cell may set the choice, to one of them."""
    guess = lab.predict(QUESTION, CHOICES)
    with pytest.raises(UserError, match="'7' is no choice here: 0, 256, 400"):
        guess.choice = "7"
