"""Show what the package holds, so that a lesson never types it again."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from wslessons.errors import UserError

__all__ = ["Shown", "about", "show"]


class Shown:
    """What a cell shows: text, and in JupyterLab what is drawn of it.

    Args:
        text: for a terminal, and for whoever compares outputs.
        drawn: the same by its MIME type, such as ``text/markdown``.
    """

    def __init__(self, text: str, drawn: Mapping[str, str] | None = None) -> None:
        self.text, self.drawn = text, drawn or {}

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        return {"text/plain": self.text, **self.drawn}


def show(*objects: ModuleType | type | Callable[..., Any]) -> Shown:
    """Show the source of the package, as it will run.

    Args:
        objects: functions, classes or modules.

    Returns:
        Their sources, one after the other, highlighted in a notebook.

    Raises:
        UserError: an object has no source in a file, such as a built-in.
    """
    parts = []
    for item in objects:
        try:
            parts.append(textwrap.dedent(inspect.getsource(item)).rstrip())
        except (OSError, TypeError):
            raise UserError(
                f"{item!r} has no Python source to show: give show() a function, a class or a"
                " module."
            ) from None
    code = "\n\n\n".join(parts)
    # A fence longer than any in the code, so that a docstring can't end it early.
    fence = "```"
    while fence in code:
        fence += "`"
    return Shown(code, {"text/markdown": f"{fence}python\n{code}\n{fence}"})


def about(module: ModuleType) -> Shown:
    """Show what a module says of itself: its purpose, its use in a script, what it leaves out.

    Args:
        module: of the package.

    Returns:
        Its docstring: text, code and tables in a notebook.

    Raises:
        UserError: it says nothing.
    """
    if not (text := inspect.getdoc(module)):
        raise UserError(f"{module.__name__} says nothing of itself.")
    # A docstring marks code by its indent, with "::" before it where reStructuredText wants it.
    markdown = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    markdown = re.sub(
        r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+",
        lambda block: f"```python\n{textwrap.dedent(block[0]).rstrip()}\n```\n",
        f"{markdown}\n",
    )
    return Shown(text, {"text/markdown": markdown})
