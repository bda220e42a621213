"""`wslessons record`: run notebooks in a fresh kernel and keep, or check, what comes out.

Recording an unchanged notebook twice gives the same file, byte for byte, and `--check` compares
what `pytest --nbval` compares; `wslessons.lab.outputs` says what is kept for that.

Not handled here: output that is different in each run, such as a duration. A cell tagged
`nbval-ignore-output` may have it, and then its recording differs each time.

https://nbclient.readthedocs.io/en/latest/client.html
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from wslessons.errors import UserError, need
from wslessons.lab.lessons import repository
from wslessons.lab.outputs import (
    Notebook,
    Rules,
    code_cells,
    compare,
    dumps,
    normalise,
    parse,
    read_rules,
)

__all__ = ["add_arguments", "execute", "record", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons record`."""
    parser.add_argument(
        "files", metavar="FILE", nargs="*", type=Path, help="notebooks (default: all lessons)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where outputs have changed"
    )
    parser.add_argument(
        "--sanitize-with",
        type=Path,
        metavar="FILE",
        help="nbval's sanitize file (default: tests/nbval.cfg of this clone)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="SECONDS",
        help="what a cell may take (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Record or check each notebook; 0, or 1 if any failed, each with one sentence on stderr.

    Raises `UserError` when a file or the extra is missing.
    """
    need("nbclient", "lab")
    need("ipykernel", "lab")
    root = repository()
    folders = [root / "notebooks", root / "notebooks" / "deeper"] if root else []
    files = args.files or [path for each in folders for path in sorted(each.glob("*.ipynb"))]
    # Short names where there are any: each sentence below begins with one.
    here = Path.cwd()
    files = [path.relative_to(here) if path.is_relative_to(here) else path for path in files]
    if not files:
        raise UserError("there is nothing to record: name the notebooks.", exit_code=2)
    for path in files:
        if not path.is_file():
            raise UserError(f"there is no notebook {path}.", exit_code=2)
    default_rules = root / "tests" / "nbval.cfg" if root else None
    rules = read_rules(args.sanitize_with or default_rules)
    failed = False
    for path in files:
        try:
            print(f"{path}: {record(path, rules, args.timeout, check=args.check)}", flush=True)
        except UserError as exc:
            print(f"wslessons: {exc}", file=sys.stderr, flush=True)
            failed = True
    return int(failed)


def record(path: Path, rules: Rules, timeout: float, *, check: bool = False) -> str:
    """Run the notebook at `path`, store its outputs (or compare them), and say how it went.

    A cell may take `timeout` seconds. Raises `UserError` naming the notebook and the cell, by its
    number among the code cells from 1, where a cell fails or, checking, where it has changed.
    """
    stored = path.read_text(encoding="utf-8")
    notebook = parse(path, stored)
    execute(path, notebook, timeout)
    normalise(notebook, rules)
    if check:
        old = parse(path, stored)
        compare(path, old, notebook, rules)
        normalise(old, rules)
        if dumps(old) != stored:
            raise UserError(f"{path} was saved by another program: wslessons record {path}.")
        return "as recorded"
    if (text := dumps(notebook)) == stored:
        return "recorded, unchanged"
    # Bytes, so that lines end alike on every system.
    path.write_bytes(text.encode())
    return "recorded"


def execute(path: Path, notebook: Notebook, timeout: float) -> None:
    """Run all code cells of `notebook` in a fresh kernel of this environment, in its folder.

    Raises `UserError` for a cell that raises untagged, that is tagged `raises-exception` and
    doesn't, that takes more than `timeout` seconds, or that ends the kernel.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # With no folder to search, python3 is the kernel of this very environment, as in nbval.
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
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
