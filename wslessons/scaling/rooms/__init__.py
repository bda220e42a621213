"""The chat's rooms when several servers share them, over a bus of `wslessons.scaling.bus`."""

from wslessons.scaling.rooms.room import SharedRoom
from wslessons.scaling.rooms.rooms import SharedRooms

__all__ = ["SharedRoom", "SharedRooms"]
