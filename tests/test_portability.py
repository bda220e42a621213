"""No call that only POSIX systems have stands without an alternative or a reason.

Windows and macOS are not among the machines that run these tests; this much the source shows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "wslessons"
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
"""Modules that Windows does not have: https://docs.python.org/3/library/unix.html."""
NAMES = {
    *("os.fork", "os.geteuid", "os.getloadavg", "os.getpgid", "os.getuid", "os.killpg"),
    *("os.mkfifo", "os.nice", "os.sched_getaffinity", "os.setsid", "os.uname", "os.waitid"),
    *("signal.SIGALRM", "signal.SIGCONT", "signal.SIGHUP", "signal.SIGKILL", "signal.SIGSTOP"),
    *("signal.SIGUSR1", "signal.SIGUSR2", "signal.setitimer"),
    *("socket.AF_UNIX", "socket.SO_REUSEPORT"),
}
METHODS = {"add_signal_handler", "create_unix_server", "open_unix_connection", "start_unix_server"}
GUARDS = ("hasattr(", "sys.platform", "os.name", "getattr(", "contextlib.suppress(AttributeError")
EXCUSED = {"AttributeError", "ImportError", "ModuleNotFoundError", "NotImplementedError"}
EXCEPTIONS = {
    "chaos/world.py": "the command refuses a system that can't freeze a process",
    "exercises/grade/template.py": "the grader starts this on Linux only",
    "exercises/isolation.py": "its timer is wound up only where one was set, after such a question",
    "guard/nginx.py": "nginx's signals; what runs it looks for the program first",
    "guardian.py": "started by `processes.guarded`, which asks for the system",
    "scaling/cluster/__init__.py": "its constructor refuses a system without SO_REUSEPORT",
}
"""Files whose whole job is POSIX's, each with its reason; who calls them asks for the system."""


def lacking(source: str) -> Iterator[str]:
    """Yield each POSIX-only name of `source` that is used with no look at what the system has.

    A look is a question such as ``hasattr(os, "fork")``, around it or in the function that it
    stands in, or a `try` that takes the error.
    """
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def looked(node: ast.AST) -> bool:
        while node in parents:
            node = parents[node]
            match node:
                case ast.If(test=test) | ast.IfExp(test=test):
                    if any(guard in ast.unparse(test) for guard in GUARDS):
                        return True
                case ast.Try(handlers=handlers):
                    caught = " ".join(ast.unparse(each.type) for each in handlers if each.type)
                    if any(name in caught for name in EXCUSED):
                        return True
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    if any(guard in ast.unparse(node) for guard in GUARDS):
                        return True
        return False

    for node in ast.walk(tree):
        match node:
            case ast.Import(names=[ast.alias(name=name)]) if name in MODULES:
                pass
            case ast.Attribute() if (name := ast.unparse(node)) in NAMES:
                pass
            case ast.Attribute(attr=name) if name in METHODS:
                pass
            case _:
                continue
        if not looked(node):
            yield f"line {node.lineno}: {name}"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_what_only_posix_has_is_asked_for(path: Path):
    """Else Windows would answer with an AttributeError in the middle of a lesson."""
    found = list(lacking(path.read_text(encoding="utf-8")))
    if path.relative_to(PACKAGE).as_posix() in EXCEPTIONS:
        assert found, "the exception is not needed any more"
    else:
        assert found == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("os.fork()", 1),
        ("import fcntl", 1),
        ("loop.add_signal_handler(2, stop)", 1),
        ("def f():\n    os.kill(1, signal.SIGKILL)", 1),
        ("if hasattr(os, 'fork'):\n    os.fork()", 0),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", 0),
        ("def f():\n    if sys.platform == 'win32':\n        return\n    os.setsid()", 0),
    ],
)
def test_each_way_to_use_one_is_seen(source: str, count: int):
    """With and without a look at the system."""
    assert len(list(lacking(source))) == count
