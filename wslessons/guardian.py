"""Run a command that ends when its owner does, however that one ends: the script of `processes`.

    python -I -S guardian.py OWNER HOME COMMAND [ARGUMENT ...]

This process becomes COMMAND, so its process id, pipes and exit code are those of a child that was
started directly. Before that it forks a guardian, which waits for two ends. After the command's
there is nothing to do. After the owner's, even by SIGKILL, it sends the command SIGTERM and after
`TIMEOUT` seconds SIGKILL, and removes the folder HOME (which may be empty text: none).

- An end is seen through a file descriptor for the process (pidfd_open(2), Linux); elsewhere the
  guardian looks whether the process id is there. A pipe from the owner would not do: whatever else
  the owner has forked holds it open.
- Both have a session of their own. Ctrl-C in a terminal and the stop button of a notebook go to
  the whole process group, and it is the owner who decides when the command ends.
- A broker that was killed may be started again in the same HOME, so its guardian goes on watching
  the owner until another one has taken over, or HOME is gone.

It imports nothing of ours, nor what takes long (`pathlib`, `shutil`, `contextlib`), and runs
without site-packages: each start of a server or a command waits for it, a hundredth of a second.

Not handled here: Windows, which can't fork, and a guardian that is killed before its owner.
"""

from __future__ import annotations

# `signal` is an enum of all signals around it, and as dear as all else here together.
import _signal  # ty: ignore[import-not-found]
import os
import select
import sys
import time

TIMEOUT = 5.0
"""Seconds for a command to end by itself when its owner is gone."""
LOOK = 0.5
"""Seconds between two looks whether a folder has another guardian."""
POLL = 0.1
"""Seconds between two looks whether a process is there, where the system does not tell its end."""


class Watched:
    """A process whose end can be seen, though it is not our child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.descriptor: int | None = None
        try:  # noqa: SIM105
            self.descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            pass

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        if self.descriptor is not None:
            return bool(select.select([self.descriptor], [], [], 0)[0])
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        try:
            if self.descriptor is not None:
                _signal.pidfd_send_signal(self.descriptor, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass


def wait(*processes: Watched, seconds: float | None = None) -> None:
    """Wait until one of the processes has ended, for ever or at most so long."""
    descriptors = [each.descriptor for each in processes if each.descriptor is not None]
    if len(descriptors) == len(processes):
        select.select(descriptors, [], [], seconds)
        return
    deadline = None if seconds is None else time.monotonic() + seconds
    while not any(each.ended for each in processes):
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(POLL)


def guard(owner: Watched, command: Watched, home: str) -> None:
    """Wait for the end of either, and do what the owner no longer can.

    A file in `home` (`note`) holds the process id of the latest guardian there.
    """
    while not owner.ended:
        if not command.ended:
            wait(owner, command)
            continue
        try:
            if not home:
                return
            with open(note(home)) as file:
                if file.read() != str(os.getpid()):
                    return
        except OSError:
            return
        wait(owner, seconds=LOOK)
    command.send(_signal.SIGTERM)
    wait(command, seconds=TIMEOUT)
    if not command.ended:
        command.send(_signal.SIGKILL)
        wait(command, seconds=TIMEOUT)
    if home:
        import shutil

        shutil.rmtree(home, ignore_errors=True)


def note(home: str) -> str:
    """Where the latest guardian of a folder is written down."""
    return os.path.join(home, "guardian")


def begin_session() -> None:
    """Begin a session, unless this process leads one already."""
    try:  # noqa: SIM105
        os.setsid()
    except OSError:
        pass


def main() -> None:
    """Fork the guardian and become the command."""
    parent, home, *argv = sys.argv[1:]
    owner, command = Watched(int(parent)), Watched(os.getpid())
    # From here on no other process can be mistaken for the owner.
    if os.getppid() != int(parent):
        return
    begin_session()
    if not (pid := os.fork()):
        try:
            begin_session()
            # What the command's pipes lead to must see their end when the command closes them.
            nowhere = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nowhere, number)
            guard(owner, command, home)
        finally:
            os._exit(0)
    if home:
        with open(note(home), "w") as file:
            file.write(str(pid))
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        sys.exit(f"{argv[0]} can't be run: {exc.strerror}")


if __name__ == "__main__":
    main()
