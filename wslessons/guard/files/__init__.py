"""Files for those who run a server: they travel with the package, and are tested with it.

| | |
|---|---|
| `nginx.conf` | nginx in front of it: TLS, WebSockets, several servers behind one name |
| `wslessons.service` | a unit for systemd: started with the machine, restarted, shut in |

``wslessons files`` lists them, ``wslessons files nginx.conf`` prints one.
"""

from __future__ import annotations

from pathlib import Path

from wslessons.errors import UserError, print_line

__all__ = ["FILES", "read", "show"]

FILES = {
    "nginx.conf": "nginx in front of `wslessons web`, with TLS",
    "wslessons.service": "a unit of systemd that runs `wslessons web`",
}


def read(name: str) -> str:
    """Return the text of a file.

    Args:
        name: one of `FILES`.

    Returns:
        The text, with examples for what is yours to say: name, certificate, servers.

    Raises:
        UserError: there is no such file; the exit code is 2.
    """
    if name not in FILES:
        raise UserError(f"there is no file {name!r}: choose {' or '.join(FILES)}.", exit_code=2)
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def show(name: str | None = None) -> int:
    """Print a file, or which there are: what ``wslessons files`` does.

    Args:
        name: one of `FILES`; None for a list.

    Returns:
        The exit code, 0.

    Raises:
        UserError: there is no such file; the exit code is 2.
    """
    width = max(map(len, FILES))
    listed = "\n".join(f"{each:{width}}  {what}" for each, what in FILES.items())
    print_line(listed if name is None else read(name).rstrip("\n"))
    return 0
