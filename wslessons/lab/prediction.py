"""A question before an experiment: the learner predicts, the experiment answers.

To predict before looking is what makes a demonstration stick: https://doi.org/10.1119/1.1707018
(Crouch, Fagen, Callan and Mazur, "Classroom demonstrations: Learning tools or entertainment?").
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from wslessons.errors import UserError, extra
from wslessons.lab.panel import Panel
from wslessons.lab.source import Shown

with extra("lab"):
    import ipywidgets


__all__ = ["Prediction", "predict"]

# A long choice wraps beside its button; of itself ipywidgets cuts it off, or wraps it around.
STYLE = """<style>
.wslessons-panel .widget-radio-box label {
  display: flex; align-items: flex-start; height: auto; line-height: 1.5;
}
.wslessons-panel .widget-radio-box label input {
  flex: none; order: -1; margin: 3px 8px 0 0;
}
</style>"""


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

    def reveal(self, happened: object) -> Shown:
        """Show what was predicted beside what `happened`; the choice can't be changed any more.

        Args:
            happened: what the experiment answered, as a text or anything else that `str` writes.

        Returns:
            Both, for the cell to show. Running the question's cell again asks anew.
        """
        self._radio.disabled = True
        chosen = self.choice
        predicted = f"<b>{html.escape(chosen)}</b>" if chosen else "<i>no choice made</i>"
        self._answer.value = (
            f'<div class="wslessons-outcome" style="line-height:1.5">You predicted: {predicted}'
            f"<br>It happened: <b>{html.escape(str(happened))}</b></div>"
        )
        text = f"You predicted: {chosen or '(no choice made)'}\nIt happened:   {happened}"
        return Shown(text, {"text/html": self._answer.value})


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
