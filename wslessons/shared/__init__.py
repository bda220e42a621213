"""The chat's rooms when several servers share them, over a bus of `wslessons.backplane`."""

from wslessons.shared.room import SharedRoom
from wslessons.shared.rooms import SharedRooms

__all__ = ["SharedRoom", "SharedRooms"]
