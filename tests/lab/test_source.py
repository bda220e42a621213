"""What a cell shows of the package: code, and what a module says of itself."""

from __future__ import annotations

import inspect
import types

import pytest

from wslessons import lab
from wslessons.errors import UserError
from wslessons.lab.source import about

SAYS = """One line.

In a script::

    async with serve() as server:
        ...

    run()

| URL | promise |
|---|---|
| `a:` | none |
"""


def test_about_turns_a_docstring_into_markdown_and_keeps_its_text() -> None:
    """Code is fenced, blank lines in it and all, its colons are one, and tables stay tables."""
    module = types.ModuleType("module", SAYS)
    shown = about(module)
    assert repr(shown) == SAYS.rstrip()
    markdown = shown._repr_mimebundle_()["text/markdown"]
    fenced = "```python\nasync with serve() as server:\n    ...\n\nrun()\n```\n"
    assert f"In a script:\n\n{fenced}\n| URL" in markdown
    assert "::" not in markdown
    assert markdown.endswith("| `a:` | none |\n")


def test_module_that_says_nothing_is_one_sentence() -> None:
    """An empty page would tell nobody why."""
    with pytest.raises(UserError, match="module says nothing of itself"):
        about(types.ModuleType("module"))


FUNCTIONS = [name for name in lab.__all__ if inspect.isfunction(getattr(lab, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_tells_its_arguments_and_what_it_returns(name: str):
    """In one format, Google's: what `lab.serve?` shows in a cell answers how to call it."""
    function = getattr(lab, name)
    said, signature = inspect.getdoc(function) or "", inspect.signature(function)
    for argument in signature.parameters:
        assert f"\n    {argument}: " in said, argument
    if signature.return_annotation != "None":
        assert "\nReturns:\n" in said or "\nYields:\n" in said
