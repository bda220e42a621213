"""`wslessons lab`: bring the lessons into the work folder, and open JupyterLab on the wanted one.

JupyterLab runs in this process, so that one Ctrl-C ends it and its kernels. Our settings reach it
as defaults, through a folder on `JUPYTER_CONFIG_PATH`; what a learner sets in JupyterLab wins.

https://jupyterlab.readthedocs.io/en/stable/user/directories.html#overrides-json
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import secrets
import signal
import sys
import webbrowser
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote, urlencode, urljoin
from urllib.request import Request, urlopen

from wslessons.errors import UserError, need, port_number, print_line
from wslessons.lab.copies import SOLUTIONS, bring
from wslessons.lab.lessons import find, originals, work_folder
from wslessons.lab.outputs import drop_widget_views, import_jsonschema

__all__ = ["add_arguments", "jupyter_arguments", "run"]

SETTINGS = Path(__file__).parent / "jupyter"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `wslessons lab`.

    Args:
        parser: that of ``wslessons lab``.
    """
    parser.add_argument(
        "lesson",
        metavar="LESSON",
        nargs="?",
        help="number, word or file name: 1, echo, 01_echo.ipynb, deeper/1 (default: the index)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, open no browser"
    )
    parser.add_argument(
        "--port", type=port_number, metavar="N", help="the port of JupyterLab (0: any free one)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="keep your copies of the lessons here (default: wslessons-lessons)",
    )
    parser.add_argument(
        "--solutions",
        action="store_true",
        help="open the lesson with its exercises solved, in the folder solutions",
    )


def run(args: argparse.Namespace) -> int:
    """Serve JupyterLab until Ctrl-C or SIGTERM, then end its kernels and return 0.

    The address, token and all, is printed on a line of its own once connections are accepted. Where
    JupyterLab runs in the work folder already, that one is opened instead.

    Raises:
        UserError: an unknown lesson, a folder that can't be written, a port that can't be had, or a
            missing extra.
    """
    try:
        return _serve(args)
    except KeyboardInterrupt:
        # Before JupyterLab's loop runs there is nothing to shut down yet.
        return 0


def _serve(args: argparse.Namespace) -> int:
    # What can go wrong comes before the slow import, and before anything is written.
    lesson = find(args.lesson).relative_to(originals())
    if args.solutions:
        lesson = SOLUTIONS / lesson
    need("ipykernel", "lab")
    need("ipywidgets", "lab")
    # Before JupyterLab, whose first import brings it along with all that it can do without.
    import_jsonschema()
    need("jupyterlab", "lab")
    folder = work_folder(args.dir)
    running = _running_in(folder)
    if args.port and running is None:
        _claim(args.port)
    brought = bring(folder, solutions=args.solutions)
    if said := brought.sentence(folder):
        _trust(brought.written)
        print(said, file=sys.stderr)
    page = f"lab/workspaces/wslessons/tree/{quote(lesson.as_posix())}"
    if running is not None:
        address = _address(urljoin(running["url"], page), running.get("token", ""))
        print_line(address)
        print("JupyterLab runs in this folder already: that is where this opens.", file=sys.stderr)
        if not args.no_browser:
            webbrowser.open(address)
        return 0
    path = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, [path, str(SETTINGS)]))
    # A python3 kernel of another environment, registered for the user, would lack wslessons.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

    # With a token of our own Jupyter prints no page of addresses; the one line below is enough.
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # There is nothing to tidy up yet, and somewhere in Jupyter a `KeyboardInterrupt` would be
        # taken for a part that is missing.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jupyter_server.serverapp import ServerApp
    from jupyterlab.labapp import LabApp
    from traitlets import default

    class Server(ServerApp):
        @default("token")
        def _token_of_provider(self) -> str:
            # In place of Jupyter's own, which warns that the trait is outdated: extensions of
            # Jupyter's read every trait there is, and voila has such warnings shown.
            return self.identity_provider.token

        def init_signal(self) -> None:
            # In place of Jupyter's own, which asks for a "y", and goes on where it gets none.
            _stop_on_signals(self)

    lab: Any = LabApp
    lab.serverapp_class = Server
    server = lab.initialize_server(jupyter_arguments(args, folder, page, token))
    server.contents_manager.register_pre_save_hook(keep_static_pictures)
    # No option names this list. A style sheet of the learner's own comes first in it, and wins.
    server.static_custom_path.append(str(SETTINGS / "custom"))
    address = _address(urljoin(server.connection_url, server.default_url), token)

    failed: list[UserError] = []

    def announce() -> None:
        try:
            print_line(address)
        except UserError as exc:
            failed.append(exc)
            server.stop()
        else:
            print("Press Ctrl-C to stop JupyterLab and its kernels.", file=sys.stderr)

    # Jupyter listens only when its loop runs, by a callback that is ahead of this one.
    server.io_loop.add_callback(announce)
    server.start()
    if failed:
        raise failed[0]
    return 0


def _address(url: str, token: str) -> str:
    return f"{url}?{urlencode({'token': token})}" if token else url


def _running_in(folder: Path) -> dict[str, Any] | None:
    """What Jupyter notes of a server of this user that has `folder` for its root and answers."""
    from jupyter_server.serverapp import list_running_servers

    # A note may outlive its server, or be broken.
    with contextlib.suppress(ValueError):
        for server in list_running_servers():
            if Path(server.get("root_dir", "")).resolve() != folder.resolve():
                continue
            headers = {"Authorization": f"token {server.get('token', '')}"}
            request = Request(urljoin(server["url"], "api/status"), headers=headers)
            with contextlib.suppress(OSError), urlopen(request, timeout=5):
                return server
    return None


def jupyter_arguments(args: argparse.Namespace, folder: Path, page: str, token: str) -> list[str]:
    """Return JupyterLab's command line: it serves `folder` and opens `page`, a URL's path.

    Args:
        args: the command's words.
        folder: the work folder.
        page: what to open.
        token: who shows it is let in.

    Returns:
        The words.
    """
    arguments = [
        f"--ServerApp.root_dir={folder}",
        # A workspace of our own, so that tabs of the user's other projects stay where they are.
        f"--LabApp.default_url=/{page}",
        "--LabApp.custom_css=True",
        f"--IdentityProvider.token={token}",
        "--Application.log_level=ERROR",
        # Else each new kernel warns in the terminal that it talks in plain text.
        "--KernelManager.transport_encryption=auto",
    ]
    if args.no_browser:
        arguments.append("--ServerApp.open_browser=False")
    if args.port is not None:
        arguments += [f"--ServerApp.port={args.port}", "--ServerApp.port_retries=0"]
    # Jupyter refuses root, which is who a learner is in most containers.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--ServerApp.allow_root=True")
    return arguments


def keep_static_pictures(model: dict[str, Any], **kwargs: Any) -> None:
    """Save a panel as its static picture, without the view that only its own kernel has behind it.

    Opened again, such a view would be "Error displaying widget: model not found". The page that is
    open keeps it; this is Jupyter's pre-save hook.

    Source: https://jupyter-server.readthedocs.io/en/stable/developers/savehooks.html
    """
    if model["type"] == "notebook" and model["content"]["nbformat"] == 4:
        drop_widget_views(model["content"])


def _trust(notebooks: list[Path]) -> None:
    """Mark our own lessons as trusted, else JupyterLab hides their recorded charts and styles."""
    import nbformat
    from nbformat.sign import NotebookNotary

    # Only the look is at stake: a home folder that can't be written must not stop a lesson.
    with contextlib.suppress(OSError), NotebookNotary() as notary:
        for path in notebooks:
            notary.sign(nbformat.read(path, as_version=4))


def _claim(port: int) -> None:
    """Raise `UserError` if JupyterLab could not listen on `port`.

    Jupyter would say so in a page of log; binding as it does, and letting go, costs nothing.
    """
    from tornado.netutil import bind_sockets

    try:
        sockets = bind_sockets(port, "localhost")
    except OSError as exc:
        in_use = exc.errno == errno.EADDRINUSE
        why = "is in use" if in_use else f"can't be used ({exc.strerror})"
        raise UserError(f"port {port} {why}: choose another one, or leave out --port.") from None
    for sock in sockets:
        sock.close()


def _stop_on_signals(server: Any) -> None:
    """Let Ctrl-C, SIGTERM or the end of the terminal end the server and its kernels unasked.

    A second Ctrl-C ends it at once.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        server.stop(from_signal=True)

    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, stop)
