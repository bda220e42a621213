"""Run `wslessons` commands as a user's shell would."""

from wslessons.lab.commands import run, serving

__all__ = ["run", "serving"]
