"""The README's page for operators: each bound with its default, as commands and modules have it."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path

import pytest
from websockets import http11

from wslessons import cli, logs, serving
from wslessons.chat import ChatServer
from wslessons.guard import files, http, websocket
from wslessons.web import Tickets, tickets

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SERVING = ("echo", "chat", "cluster", "web")
NO_BOUNDS = {
    *("--help", "--host", "--port", "--raw", "--fast", "--bus", "--servers", "--nodes"),
    *("--share-port", "--certfile", "--keyfile", "--loop"),
}
"""What options of the serving commands set that is no bound, and lets nobody in."""


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table in the README that begins with `heading`."""
    lines = README[README.index(heading) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


BOUNDS = rows("| bound | default | option | servers | why |")
LEAVE = rows("| option | servers | who may do what |")


def options(command: str) -> dict[str, argparse.Action]:
    """Return the options of a command by their names."""
    (commands,) = (
        action
        for action in cli.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    parser: argparse.ArgumentParser = commands.choices[command]
    return {action.option_strings[-1]: action for action in parser._actions}


def number(text: str) -> float:
    """Return a number of the table."""
    return float(text.replace(",", ""))


def servers(cell: str) -> set[str]:
    """Return the servers that a cell of the table means."""
    found = {word for part in cell.split(",") for word in [part.strip()]}
    return found - {"all"} | set(SERVING) if "all" in found else found


@pytest.mark.parametrize("command", SERVING)
def test_each_option_of_a_command_is_in_the_table_with_its_default(command: str) -> None:
    """Nothing that bounds anything is missing, or has another default than it says."""
    table = {
        option.strip("`"): default
        for _, default, option, where, _ in BOUNDS
        if option and command in servers(where)
    }
    table |= {option.strip("`"): "" for option, where, _ in LEAVE if command in servers(where)}
    found = {name: action for name, action in options(command).items() if name not in NO_BOUNDS}
    assert set(found) == set(table)
    for name, action in found.items():
        if name == "--burst":
            rate = found["--rate"].default
            assert number(table[name]) == 5 * rate
        elif table[name]:
            assert action.default == number(table[name]), name
        else:
            assert not action.default, name


def library_bound() -> int:
    """Return the longest line of a header that the library takes, without its line end."""
    return http11.MAX_LINE_LENGTH - 2


FIXED: dict[str, object] = {
    "seconds for the opening handshake": http.REQUEST_TIMEOUT,
    "seconds for a TLS handshake": http.REQUEST_TIMEOUT,
    "seconds for the first message": inspect.signature(ChatServer)
    .parameters["name_timeout"]
    .default,
    "bytes of a request's address and headers": http.MAX_HEAD,
    "bytes of one header of a WebSocket handshake": library_bound(),
    "seconds in which some of what waits has to be taken": http.WRITE_TIMEOUT,
    "fragments of one message": websocket.MAX_FRAGMENTS,
    "bytes of messages that wait for a handler": serving.QUEUED,
    "seconds to answer a close frame": websocket.CLOSE_TIMEOUT,
    "seconds that a ticket lasts": Tickets().lifetime,
    "seconds that another server's clock may be ahead": tickets.SKEW,
    "lines of the log that may wait to be read": logs.WAITING,
}


def test_what_no_option_changes_is_as_the_table_says() -> None:
    """The other rows name a constant of a module, each once, and have its value."""
    table = {name: default for name, default, option, _, _ in BOUNDS if not option}
    for name, value in FIXED.items():
        (default,) = [shown for row, shown in table.items() if row.startswith(name)]
        assert number(default) == value, name
    assert len(table) == len(FIXED)


def test_every_row_says_why() -> None:
    """A bound that nobody can explain is one too many."""
    for row in BOUNDS:
        assert len(row) == 5
        assert all(row[index] for index in (0, 1, 3, 4))
        assert servers(row[3]) <= {*SERVING, "push"}
    (line,) = re.findall(r"proxy_set_header Host \$\w+", README)
    assert f"{line};" in files.read("nginx.conf")
