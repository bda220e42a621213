"""Lesson 2: a broadcast chat on a bounded channel. The server is `ChatServer`, in `server.py`."""

from wslessons.chat.channel import Channel, Closed, Empty, Lagged, Receiver
from wslessons.chat.connection import Connection, Gone
from wslessons.chat.fanout import Fanout
from wslessons.chat.identity import Denied, Identity, Member, Opening
from wslessons.chat.room import Room
from wslessons.chat.server import ChatServer

__all__ = [
    "Channel",
    "ChatServer",
    "Closed",
    "Connection",
    "Denied",
    "Empty",
    "Fanout",
    "Gone",
    "Identity",
    "Lagged",
    "Member",
    "Opening",
    "Receiver",
    "Room",
]
