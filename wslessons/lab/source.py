"""Show code from the package, so that a lesson never types it again."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

from wslessons.errors import UserError

__all__ = ["About", "Source", "about", "show"]


class Source:
    """The source of an object, which JupyterLab highlights in the colours of its theme.

    Args:
        code: Python.
    """

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        # A fence longer than any in the code, so that a docstring can't end it early.
        fence = "```"
        while fence in self.code:
            fence += "`"
        return {"text/plain": self.code, "text/markdown": f"{fence}python\n{self.code}\n{fence}"}


def show(*objects: ModuleType | type | Callable[..., Any]) -> Source:
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
    return Source("\n\n\n".join(parts))


class About:
    """What a module says of itself, which JupyterLab shows as text, code and tables.

    Args:
        text: a docstring.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        # A docstring marks code by its indent, with "::" before it where reStructuredText wants it.
        markdown = re.sub(r"::$", ":", self.text, flags=re.MULTILINE)
        markdown = re.sub(
            r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+",
            lambda block: f"```python\n{textwrap.dedent(block[0]).rstrip()}\n```\n",
            f"{markdown}\n",
        )
        return {"text/plain": self.text, "text/markdown": markdown}


def about(module: ModuleType) -> About:
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
    return About(text)
