"""Lesson 5: notice a peer that vanished, and measure the way to it."""

from wslessons.heartbeat.heartbeat import Beat, Heartbeat
from wslessons.heartbeat.pacer import Pacer

__all__ = ["Beat", "Heartbeat", "Pacer"]
