"""A question before an experiment: the learner predicts, the experiment answers.

To predict before looking is what makes a demonstration stick: https://doi.org/10.1119/1.1707018
(Crouch, Fagen, Callan and Mazur, "Classroom demonstrations: Learning tools or entertainment?").
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from wslessons.errors import UserError, extra
from wslessons.lab.panel import Panel

with extra("lab"):
    import ipywidgets


__all__ = ["Outcome", "Prediction", "predict"]

# A long choice wraps beside its button; of itself ipywidgets cuts it off, or wraps it around.
STYLE = """<style>
.wslessons-panel .widget-radio-box label {
  display: flex; align-items: flex-start; height: auto; line-height: 1.5;
}
.wslessons-panel .widget-radio-box label input {
  flex: none; order: -1; margin: 3px 8px 0 0;
}
</style>"""


class Outcome:
    """What was predicted beside what happened; made by `Prediction.reveal`.

    Args:
        predicted: the choice, or None where none was made.
        happened: what the experiment answered.

    Attributes:
        predicted: the choice, or None where none was made.
        happened: what the experiment answered.
    """

    def __init__(self, predicted: str | None, happened: str) -> None:
        self.predicted, self.happened = predicted, happened

    def __repr__(self) -> str:
        return (
            f"You predicted: {self.predicted or '(no choice made)'}\nIt happened:   {self.happened}"
        )

    def _repr_html_(self) -> str:
        predicted = "<i>no choice made</i>"
        if self.predicted is not None:
            predicted = f"<b>{html.escape(self.predicted)}</b>"
        return (
            f'<div class="wslessons-outcome" style="line-height:1.5">You predicted: {predicted}'
            f"<br>It happened: <b>{html.escape(self.happened)}</b></div>"
        )


class Prediction(Panel):
    """A question with choices, shown by its cell; made by `predict`.

    Without a page, as under nbval, it is the question and its choices as text, and no choice is
    made: `reveal` works all the same.

    Args:
        question: what is asked.
        choices: what may be answered.
    """

    def __init__(self, question: str, choices: Sequence[str]) -> None:
        shown = "".join(f"<li>{html.escape(choice)}</li>" for choice in choices)
        super().__init__(
            question,
            text="\n".join([question, *(f"( ) {choice}" for choice in choices)]),
            picture=f"<b>{html.escape(question)}</b><ul>{shown}</ul>",
        )
        self.question, self.choices = question, list(choices)
        self._radio = ipywidgets.RadioButtons(
            options=self.choices, value=None, layout=ipywidgets.Layout(width="auto")
        )
        self._answer = ipywidgets.HTML()
        asked = ipywidgets.HTML(f"<b>{html.escape(question)}</b>")
        self.fill(ipywidgets.HTML(STYLE), asked, self._radio, self._answer)

    @property
    def choice(self) -> str | None:
        """The choice that is made now, or None."""
        return self._radio.value

    @choice.setter
    def choice(self, choice: str | None) -> None:
        if choice is not None and choice not in self.choices:
            raise UserError(f"{choice!r} is no choice here: {', '.join(self.choices)}.")
        self._radio.value = choice

    def reveal(self, happened: object) -> Outcome:
        """Show what was predicted beside what `happened`; the choice can't be changed any more.

        Args:
            happened: what the experiment answered, as a text or anything else that `str` writes.

        Returns:
            Both, for the cell to show. Running the question's cell again asks anew.
        """
        outcome = Outcome(self.choice, str(happened))
        self._radio.disabled = True
        self._answer.value = outcome._repr_html_()
        return outcome


def predict(question: str, choices: Sequence[object]) -> Prediction:
    """Ask what an experiment will show, before it is run.

    ``guess = lab.predict("How many lines does bob get?", [0, 256, 400])``, with ``guess`` as the
    cell's last line, and after the experiment ``guess.reveal(f"bob got {len(lines)} of 400")``.
    Nothing is scored, and the experiment may run without a choice.

    Args:
        question: one sentence.
        choices: two or more, each unlike the others, as texts or anything else that `str` writes.

    Returns:
        The question, which a cell shows as its last value, and which `reveal` answers.

    Raises:
        UserError: the choices are fewer than two, or two are the same.
    """
    texts = [choices] if isinstance(choices, str) else [str(choice) for choice in choices]
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise UserError("a prediction needs two choices or more, each unlike the others.")
    return Prediction(question, texts)
