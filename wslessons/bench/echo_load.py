"""Clients of an echo, in a process of their own: a `wslessons.bench.tools.Child`.

    python -m wslessons.bench.echo_load PORT CLIENTS

It says when all have connected. Told a number, each client sends so many messages, the next when
the one before has come back; then it says that they have.

In the process of the server, the two would take turns with Python's lock, which costs more than
the messages do.
"""

from __future__ import annotations

import json
import sys

from wslessons.bench.fanout_load import client_frame, connect

__all__ = ["main"]

TEXT = b"x" * 60


def main(port: str, clients: str) -> None:
    """Connect, and send what is asked for until the parent closes the pipe.

    Args:
        port: the server's, on 127.0.0.1.
        clients: how many there are.

    Raises:
        UserError: the server refuses them.
        TimeoutError: it does not answer in time.
    """
    sockets = [connect(int(port))[0] for _ in range(int(clients))]
    frame = client_frame(TEXT)
    print("{}", flush=True)
    for line in sys.stdin:
        for _ in range(json.loads(line)):
            for sock in sockets:
                sock.sendall(frame)
            for sock in sockets:
                if not sock.recv(4096):
                    sys.exit("the server has ended a connection.")
        print("{}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
