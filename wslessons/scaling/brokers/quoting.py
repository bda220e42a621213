"""How brokers' configuration files are written."""

from __future__ import annotations

__all__ = ["quoted"]


def quoted(text: str) -> str:
    """Write a text as one word of a configuration file, whatever is in it.

    Servers of NATS and of Valkey read it alike.
    """
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
