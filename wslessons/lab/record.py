"""`wslessons record`: run notebooks in a fresh kernel and keep, or check, what comes out.

Recording changes what has changed, and no more: an unchanged notebook stays the same file, byte
for byte, and a cell tagged `nbval-ignore-output`, whose numbers always differ, keeps the old ones
while the words around them are the same. `--check` lets nbval itself run and compare, by the rules
that the recording was made with; what a recording holds, `wslessons.lab.outputs` says.

https://nbclient.readthedocs.io/en/latest/client.html
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from wslessons.errors import UserError, need, print_line
from wslessons.lab.lessons import all_lessons, originals, repository
from wslessons.lab.outputs import (
    RULES,
    Notebook,
    code_cells,
    dumps,
    import_jsonschema,
    keep_measurements,
    normalise,
    parse,
    read_rules,
)
from wslessons.processes import kernel_sockets

__all__ = [
    "add_arguments",
    "add_rules_arguments",
    "check",
    "execute",
    "prepare_nbval",
    "record",
    "run",
    "say_rules",
]

PYTEST = (
    "import sys; from wslessons.lab.record import prepare_nbval; prepare_nbval();"
    " import pytest; sys.exit(pytest.main())"
)
"""Runs pytest as its command does, with nbval prepared."""

NBVAL_LINES = 12
"""Of what nbval says about a cell, at most so many lines are shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons record`.

    Args:
        parser: that of ``wslessons record``.
    """
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=Path,
        help="notebooks (default: all lessons: this folder's copies, or else the clone's)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where outputs have changed"
    )
    parser.add_argument(
        "--sanitize-with",
        type=Path,
        default=RULES,
        metavar="FILE",
        help="nbval's sanitize file (default: the lessons' own)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="SECONDS",
        help="what a cell may take (default: %(default)s)",
    )


def add_rules_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the help of `wslessons nbval-rules`, which takes no arguments.

    Args:
        parser: that of ``wslessons nbval-rules``.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "strict nbval over copies of the lessons, anywhere:\n"
        '  pytest --nbval --nbval-sanitize-with "$(wslessons nbval-rules)" 01_echo.ipynb'
    )


def say_rules(args: argparse.Namespace) -> int:
    """Print the path of nbval's sanitize file for the lessons, and return 0."""
    print_line(str(RULES))
    return 0


def run(args: argparse.Namespace) -> int:
    """Record or check each notebook; 0, or 1 if any failed, each with one sentence on stderr.

    Raises:
        UserError: a file or the extra is missing.
    """
    need("ipykernel", "lab")
    # Before the other two, which bring it along with all that it can do without.
    import_jsonschema()
    need("nbclient", "lab")
    need("nbval", "lab")
    # Short names where there are any: each sentence below begins with one.
    here = Path.cwd()
    files = [
        path.relative_to(here) if path.is_relative_to(here) else path
        for path in args.files or _lessons_of(here, to_write=not args.check)
    ]
    for path in files:
        if not path.is_file():
            raise UserError(f"there is no notebook {path}.", exit_code=2)
    read_rules(args.sanitize_with)
    work, failed = (check if args.check else record), False
    for path in files:
        try:
            print(f"{path}: {work(path, args.sanitize_with, args.timeout)}", flush=True)
        except UserError as exc:
            print(f"wslessons: {exc}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


def _lessons_of(folder: Path, *, to_write: bool) -> list[Path]:
    """All lessons of which `folder` has copies, or else those that came with the package.

    Raises:
        UserError: the package's own would be written, and are an install's.
    """
    known = all_lessons()
    copies = [folder / path.relative_to(originals()) for path in known]
    if found := [path for path in copies if path.is_file()]:
        return found
    if to_write and repository() is None:
        raise UserError(
            "there are no copies of the lessons in this folder: name the notebooks;"
            " the installed lessons stay as they are.",
            exit_code=2,
        )
    return known


def record(path: Path, rules: Path = RULES, timeout: float = 60) -> str:
    """Run the notebook at `path`, store its outputs, and say whether they are new.

    Args:
        path: the notebook; it is not touched where a cell fails.
        rules: nbval's sanitize file, applied to what is stored.
        timeout: seconds that a cell may take.

    Returns:
        "recorded", and "unchanged" where it is.

    Raises:
        UserError: it is no notebook, or a cell fails: named by its number among the code cells.
    """
    stored = path.read_text(encoding="utf-8")
    notebook = parse(path, stored)
    before = parse(path, stored)
    execute(path, notebook, timeout)
    for each in (before, notebook):
        normalise(each, read_rules(rules))
    keep_measurements(notebook, before)
    if (text := dumps(notebook)) == stored:
        return "recorded, unchanged"
    # Bytes, so that lines end alike on every system.
    path.write_bytes(text.encode())
    return "recorded"


def check(path: Path, rules: Path = RULES, timeout: float = 60) -> str:
    """Let strict nbval run the notebook at `path` and compare, and say that all is as recorded.

    Args:
        path: the notebook; it is only read.
        rules: nbval's sanitize file.
        timeout: seconds that a cell may take.

    Returns:
        "as recorded".

    Raises:
        UserError: it is no notebook, or has a cell that was never run, or nbval finds a cell that
            differs or fails: the first one is named, by its number among the code cells.
    """
    for number, _, cell in code_cells(parse(path, path.read_text(encoding="utf-8"))):
        # nbval compares a cell that was never run with nothing.
        if cell.execution_count is None and cell.source.strip():
            raise UserError(f"{path}, cell {number} was never run: wslessons record {path}.")
    with tempfile.TemporaryDirectory() as folder:
        # A folder of its own, lest settings and plugins that are about have a say.
        settings, report = Path(folder, "pytest.ini"), Path(folder, "report.xml")
        settings.write_text("[pytest]\n")
        command = [
            *(sys.executable, "-c", PYTEST, "-x", "--color=no", f"--junit-xml={report}"),
            *("--disable-plugin-autoload", "-p", "nbval.plugin", "-p", "no:cacheprovider"),
            *("-c", str(settings), f"--rootdir={path.resolve().parent}"),
            *("--nbval", "--nbval-current-env", f"--nbval-cell-timeout={timeout}"),
            *(f"--nbval-sanitize-with={rules.resolve()}", str(path.resolve())),
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        done = subprocess.run(command, env=environment, text=True, capture_output=True)
        cells = ElementTree.parse(report).iter("testcase") if report.exists() else []
        for cell in cells:
            if (failure := cell.find("failure")) is not None:
                number = int(cell.get("name", "").rpartition(" ")[2]) + 1
                raise UserError(f"{path}, cell {number} {_complaint(failure.text or '')}")
    if done.returncode:
        raise UserError(f"nbval could not check {path}: {done.stdout.strip()[-500:]}")
    return "as recorded"


def _complaint(report: str) -> str:
    """Word what nbval reports of a cell: its headline, the cell's source, and the details."""
    head, _, details = re.sub(r"(\x1b|#x1B)\[[\d;]*m", "", report).partition("\nTraceback:\n")
    lines = [line for line in details.splitlines() if line.strip()]
    if "Cell outputs differ" not in head:
        said = head.splitlines()[1].partition(": ")[2]
        return f"fails: {said}" + (f": {lines[-1].strip()}" if lines else "")
    more = ["  ..."] if len(lines) > NBVAL_LINES else []
    return "\n".join(["differs from its recording:", *lines[:NBVAL_LINES], *more])


def prepare_nbval() -> None:
    """Have nbval load a second or two sooner, and meet its kernels at files, see `kernel_sockets`.

    To be called before it is loaded.
    """
    import_jsonschema()
    from jupyter_client.manager import KernelManager
    from nbval import kernel

    def manager(**arguments: Any) -> KernelManager:
        return KernelManager(**arguments, **kernel_sockets())

    kernel.KernelManager = manager  # ty: ignore[invalid-assignment]


def execute(path: Path, notebook: Notebook, timeout: float) -> None:
    """Run all code cells of `notebook` in a fresh kernel of this environment, in its folder.

    Args:
        path: where the notebook is from; sentences name it.
        notebook: gets the outputs.
        timeout: seconds that a cell may take.

    Raises:
        UserError: a cell raises untagged, is tagged `raises-exception` and doesn't raise, takes
            too long, or ends the kernel.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # With no folder to search, python3 is the kernel of this very environment, as in nbval.
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        **kernel_sockets(),
    )
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout,
        coalesce_streams=True,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    client.log.setLevel("ERROR")
    with client.setup_kernel(cleanup_kc=True, stderr=subprocess.DEVNULL):
        for number, index, cell in code_cells(notebook):
            where = f"{path}, cell {number}"
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as exc:
                error = f"{exc.ename}: {exc.evalue}".strip().partition("\n")[0]
                raise UserError(f"{where} raises {error}") from None
            except CellTimeoutError:
                raise UserError(f"{where} takes more than {timeout:g} s.") from None
            except DeadKernelError:
                raise UserError(f"{where} ends the kernel.") from None
            raised = any(output.output_type == "error" for output in cell.outputs)
            if "raises-exception" in cell.metadata.get("tags", []) and not raised:
                raise UserError(f"{where} is tagged raises-exception and raises nothing.")
