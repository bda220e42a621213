"""What a recorded notebook holds.

Whatever only one run has (widget ids, timestamps, the Python version, tracebacks) is left out of a
recording; what an author has noted in the metadata of a notebook or a cell stays. The outputs have
gone through the rules of nbval's sanitize file, so that a port, say, is the same word each time.

https://nbval.readthedocs.io/en/latest/#regex-output-sanitizing
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wslessons.errors import UserError, need

__all__ = [
    "NOTEBOOK_METADATA",
    "RULES",
    "WIDGET_VIEW",
    "Notebook",
    "Rules",
    "code_cells",
    "drop_widget_views",
    "dumps",
    "import_jsonschema",
    "keep_measurements",
    "normalise",
    "parse",
    "read_rules",
    "sanitize",
]

# Random at each run.
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}

OF_A_RUN = {"ExecuteTime", "collapsed", "execution", "outputId", "scrolled", "trusted"}
"""What programs note in a cell's metadata about a run, or about how it was looked at."""

RULES = Path(__file__).with_name("nbval.cfg")
"""The lessons' own rules: what may differ from run to run."""

Rules = list[tuple[re.Pattern[str], str]]
Notebook = Any  # nbformat's NotebookNode, a dict whose keys are attributes too


def import_jsonschema() -> None:
    """Import what Jupyter checks notebooks with, without two packages that it can do without.

    As soon as they are imported they compile grammars, of all internationalised addresses and of
    durations, for formats that no notebook has: half of the seconds in which JupyterLab starts.

    Raises:
        MissingExtra: it is not installed.
    """
    absent = [name for name in ("rfc3987_syntax", "isoduration") if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # ty: ignore[invalid-assignment]
    try:
        need("jsonschema", "lab")
    finally:
        for name in absent:
            del sys.modules[name]


def read_rules(path: Path = RULES) -> Rules:
    """Read nbval's sanitize file, as nbval reads it: anything that is no rule counts for nothing.

    Args:
        path: of the file.

    Returns:
        Patterns with what replaces them, in the file's order.

    Raises:
        UserError: the file can't be read.
    """
    need("nbval", "lab")
    import_jsonschema()
    from nbval.plugin import get_sanitize_patterns

    try:
        pairs = get_sanitize_patterns(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UserError(f"can't read {path}: {exc.strerror}.", exit_code=2) from None
    return [(re.compile(pattern), replacement) for pattern, replacement in pairs]


def parse(path: Path, text: str) -> Notebook:
    """Read `text` as a notebook of format 4; raise `UserError`, naming `path`, if it is none.

    Args:
        path: for the sentence.
        text: JSON.

    Returns:
        The notebook.
    """
    import_jsonschema()
    import nbformat

    try:
        notebook = nbformat.from_dict(json.loads(text))
        if notebook["nbformat"] != 4:
            raise ValueError("not format 4")
        # Only format 4.5 has cell ids, and nbformat would make up random ones.
        notebook.nbformat_minor = max(5, notebook["nbformat_minor"])
        for index, cell in enumerate(notebook.cells):
            if not cell.get("id"):
                seed = f"{index} {''.join(cell.source)}".encode()
                cell["id"] = hashlib.sha256(seed).hexdigest()[:8]
        joined = nbformat.reads(json.dumps(notebook), as_version=4)
        nbformat.validate(joined)
    except (AttributeError, KeyError, TypeError, ValueError, nbformat.ValidationError) as exc:
        why = str(exc).partition("\n")[0]
        raise UserError(f"{path} is not a notebook of format 4 ({why}).") from None
    return joined


def code_cells(notebook: Notebook) -> Iterator[tuple[int, int, Notebook]]:
    """Yield each code cell with its number among them, from 1, and its index among all cells.

    Args:
        notebook: of nbformat's version 4.

    Yields:
        Number, index and cell.
    """
    cells = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for number, (index, cell) in enumerate(cells, 1):
        yield number, index, cell


def sanitize(rules: Rules, value: Any) -> Any:
    """Apply `rules` in order to `value` if it is text, as nbval does.

    Args:
        rules: what `read_rules` returned.
        value: of an output.

    Returns:
        The changed text; anything else as it is.
    """
    if isinstance(value, str):
        for pattern, replacement in rules:
            value = pattern.sub(replacement, value)
    return value


def drop_widget_views(notebook: Notebook) -> None:
    """Drop from `notebook`, in place, what only the kernel that wrote it can show.

    Args:
        notebook: is changed.
    """
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)


def normalise(notebook: Notebook, rules: Rules) -> None:
    """Drop from `notebook`, in place, all that another run would have otherwise.

    Args:
        notebook: is changed.
        rules: what is replaced in its outputs.
    """
    import nbformat

    drop_widget_views(notebook)
    notebook.metadata.update(nbformat.from_dict(NOTEBOOK_METADATA))
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for key in OF_A_RUN.intersection(cell.metadata):
            del cell.metadata[key]
        if "jupyter" in cell.metadata:
            cell.metadata.jupyter.pop("outputs_hidden", None)
        for key in ("jupyter", "tags"):
            if key in cell.metadata and not cell.metadata[key]:
                del cell.metadata[key]
    for _, _, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = sanitize(rules, output.text)
            elif output.output_type == "error":
                output.evalue = sanitize(rules, output.evalue)
                # Paths and, from one Python to the next, the wording differ; nbval skips it.
                output.traceback = [f"{output.ename}: {output.evalue}"]
            else:
                for kind, value in output.data.items():
                    output.data[kind] = sanitize(rules, value)
                output.metadata = {k: v for k, v in output.metadata.items() if k in output.data}


def keep_measurements(notebook: Notebook, before: Notebook) -> None:
    """Let each cell tagged `nbval-ignore-output` keep its recording while only numbers differ.

    Args:
        notebook: the new recording, changed in place.
        before: the same notebook as it was recorded before.
    """
    for new, old in zip(notebook.cells, before.cells, strict=True):
        if "nbval-ignore-output" in new.metadata.get("tags", []) and _words(new) == _words(old):
            new.outputs = old.outputs
            for output in new.outputs:
                if "execution_count" in output:
                    output.execution_count = new.execution_count


def _words(cell: Notebook) -> list[str]:
    """The words that a cell put out, without those that hold a digit; of charts, what they show."""
    found: list[str] = []
    for output in cell.outputs:
        said = {"text": output.get("text") or output.get("evalue") or "", **output.get("data", {})}
        for kind, value in sorted(said.items()):
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            if kind.startswith("image/"):
                text = ""
            found += [kind, *(word for word in text.split() if not re.search(r"\d", word))]
    return found


def dumps(notebook: Notebook) -> str:
    """Write `notebook` as JSON: keys sorted, one line a line of source, a newline at the end.

    Args:
        notebook: of nbformat's version 4.

    Returns:
        The file's text.
    """
    import nbformat

    return nbformat.writes(notebook, version=nbformat.NO_CONVERT) + "\n"
