"""The other end of ``wslessons bench fanout``: receivers and senders that count what arrives.

One thread and one poll loop, no WebSocket library, so that the counting costs less than the
serving. All lines of a run have the same length; so a receiver counts by bytes, and looks at the
header of each frame that is due. Where a header is not as it should be (a server that reports a
loss, or asks with a ping whether somebody is there), this receiver reads frame by frame until it
has the head of a line before it again. The first receiver always does, and checks that each
sender's lines are complete and in order. Pings are answered, so a run may be of any length.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Self

from wslessons.errors import UserError
from wslessons.testing.raw import handshake

__all__ = ["TEXT_SIZE", "Deaf", "Load", "answer_pings", "client_frame", "connect"]

TEXT_SIZE = 64
NAME_SIZE = 3
FRAME = 2 + len("[] ") + NAME_SIZE + TEXT_SIZE
"""Bytes of one line as it arrives: ``[s00] `` and the text, below 126 bytes of payload."""
HEAD = bytes([0x81]), bytes([FRAME - 2])
PING, PONG = 0x89, 0x8A
CHUNK = 2**18
MARK = b"BEGIN"
PATIENCE = 10.0
"""Seconds without another receiver that hears the first line, after which the others are deaf."""


def client_frame(text: bytes, opcode: int = 0x81) -> bytes:
    """Make a frame from a client; the masking key is zero, and costs the server the same.

    Args:
        text: at most 125 bytes.
        opcode: the frame's first byte, by default that of a whole text.

    Returns:
        The frame's bytes.
    """
    return bytes([opcode, 0x80 | len(text), 0, 0, 0, 0]) + text


def answer_pings(sock: socket.socket, data: bytes) -> tuple[int, int]:
    """Send the pongs to the pings in what was read from a server.

    Args:
        sock: where to send them.
        data: whole frames of at most 125 bytes each; what does not look like them ends it.

    Returns:
        How many pings there were, and how many other frames.
    """
    at = pings = others = 0
    while len(data) >= at + 2 and data[at + 1] < 126:
        end = at + 2 + data[at + 1]
        if data[at] == PING:
            sock.send(client_frame(data[at + 2 : end], PONG))
            pings += 1
        else:
            others += 1
        at = end
    return pings, others


def connect(port: int, buffer_size: int = 0) -> tuple[socket.socket, bytearray]:
    """Open a WebSocket connection.

    Args:
        port: on 127.0.0.1.
        buffer_size: bytes of the kernel's receive buffer, 0 for what the system gives.

    Returns:
        The socket, and what came after the handshake.

    Raises:
        UserError: the server refused.
    """
    sock = socket.socket()
    sock.settimeout(15)
    if buffer_size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray()
    try:
        sock.connect(("127.0.0.1", port))
        sock.sendall(handshake())
        head = _read_until(sock, buffer, b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise UserError(f"the server refused: {head[:40]!r}")
    except BaseException:
        sock.close()
        raise
    return sock, buffer


def welcomed(sock: socket.socket, buffer: bytearray, name: str) -> None:
    """Wait for a welcome.

    Args:
        sock: of a connection; from now on it does not block.
        buffer: what was read already; it keeps what comes after the welcome.
        name: who is welcomed.

    Raises:
        UserError: the server closed the connection.
    """
    _read_until(sock, buffer, f"Welcome, {name}!".encode())
    sock.setblocking(False)


def _read_until(sock: socket.socket, buffer: bytearray, end: bytes) -> bytes:
    """Read up to `end` and return that; what follows it stays in `buffer`."""
    while end not in buffer:
        data = sock.recv(65536)
        if not data:
            raise UserError("the server closed a connection.")
        buffer += data
    size = buffer.index(end) + len(end)
    read = bytes(buffer[:size])
    del buffer[:size]
    return read


class Receiver:
    """A connection that counts.

    Args:
        sock: of the connection.
        buffer: what was read already.
        send: takes the answers to pings.
        check: whether to read each frame, and look at the order of lines.

    Attributes:
        count: lines that have arrived.
        missed: lines that the server said it did not send.
        checked: whether each sender's lines came complete and in order, as far as was looked.
    """

    __slots__ = (
        *("buffer", "bytes", "check", "checked", "count", "missed", "next"),
        *("send", "slow", "sock"),
    )

    def __init__(
        self,
        sock: socket.socket,
        buffer: bytearray,
        send: Callable[[bytes], object],
        *,
        check: bool = False,
    ) -> None:
        self.sock = sock
        self.buffer = buffer
        self.send = send
        self.check = self.slow = check
        self.bytes = 0
        self.count = 0
        self.missed = 0
        self.checked = True
        self.next: dict[bytes, int] = {}

    def begin(self) -> bool:
        """Drop everything up to the mark; return whether it has come."""
        at = self.buffer.find(MARK)
        if at < 0 or len(self.buffer) < at + TEXT_SIZE:
            return False
        del self.buffer[: at + TEXT_SIZE]
        # A ping may stand behind it.
        self.slow = True
        return True

    def feed(self, data: bytearray, size: int) -> None:
        """Count the lines in the first `size` bytes of `data`."""
        if not self.slow:
            opcodes = data[-self.bytes % FRAME : size : FRAME]
            sizes = data[(1 - self.bytes) % FRAME : size : FRAME]
            if opcodes.count(HEAD[0]) == len(opcodes) and sizes.count(HEAD[1]) == len(sizes):
                self.bytes += size
                self.count = self.bytes // FRAME
                return
            # What was counted was whole lines and `bytes % FRAME` bytes of another: as its header
            # was right, only its length matters from here on.
            self.slow = True
            partial = self.bytes % FRAME
            self.buffer[:] = (b"".join(HEAD) + bytes(FRAME - 2))[:partial]
        self.buffer += data[:size]
        self._read_frames()
        if not self.check and b"".join(HEAD).startswith(self.buffer[:2]):
            self.slow = False
            self.bytes = self.count * FRAME + len(self.buffer)

    def _read_frames(self) -> None:
        buffer, at = self.buffer, 0
        while len(buffer) >= at + 2:
            size, head = buffer[at + 1], 2
            if size == 126:
                if len(buffer) < at + 4:
                    break
                size, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            end = at + head + size
            if len(buffer) < end:
                break
            payload = buffer[at + head : end]
            if buffer[at] == PING:
                self.send(client_frame(bytes(payload), PONG))
            elif payload.startswith(b"[system] you missed "):
                self.missed += int(payload.split()[3])
            elif head + size == FRAME:
                self.count += 1
                self._check(bytes(payload))
            at = end
        del buffer[:at]

    def _check(self, payload: bytes) -> None:
        """Note a line that is out of its sender's order; a line of the floor has no number."""
        name, number = payload[:6], payload[6:14]
        if number.isdigit():
            due = self.next.get(name, 0)
            if int(number) != due:
                self.checked = False
            self.next[name] = int(number) + 1


class Sender:
    """A connection that says numbered lines; what it hears is of no interest but for the pings.

    Args:
        sock: of the connection.
        buffer: what was read already.
    """

    def __init__(self, sock: socket.socket, buffer: bytearray) -> None:
        self.sock = sock
        self.number = 0
        self.waiting = b""
        self.heard = Receiver(sock, buffer, self.send)
        self.heard.slow = True

    def say(self, count: int) -> None:
        """Send the next `count` lines, or keep what the socket does not take."""
        numbers = range(self.number, self.number + count)
        self.number += count
        self.send(b"".join(client_frame(b"%08d" % n + b"x" * (TEXT_SIZE - 8)) for n in numbers))

    def send(self, data: bytes) -> None:
        """Send `data` after what is still waiting."""
        self.waiting += data
        with contextlib.suppress(BlockingIOError):
            self.waiting = self.waiting[self.sock.send(self.waiting) :]


class Deaf(UserError):
    """Receivers no longer hear, though their connections are open: after a lag, in most cases.

    Args:
        heard: how many still did.
        receivers: how many there are.
    """

    def __init__(self, heard: int, receivers: int) -> None:
        super().__init__(f"deaf after a lag: {heard} of {receivers} heard.")


class Load:
    """Receivers and senders on one server; a context manager.

    Args:
        port: the server's, on 127.0.0.1.
        receivers: how many hear.
        senders: how many speak.
        stalled: whether to add one member that never reads.

    Raises:
        Deaf: some do not hear the first line, `PATIENCE` after the others.
        UserError: the server does not let them in.
    """

    def __init__(self, port: int, receivers: int, senders: int, *, stalled: bool = False) -> None:
        self.receivers: list[Receiver] = []
        self.senders: list[Sender] = []
        self.stalled: Receiver | None = None
        self._socks: list[socket.socket] = []
        self._poll = _Poll()
        self._buffer = bytearray(CHUNK)
        try:
            self._connect(port, receivers, senders, stalled)
        except OSError as exc:
            self.close()
            raise UserError(f"can't connect to the bench's server: {exc}.") from exc
        except BaseException:
            self.close()
            raise

    def _connect(self, port: int, receivers: int, senders: int, stalled: bool) -> None:
        names = [f"r{i:05d}" for i in range(receivers)] + [f"s{i:02d}" for i in range(senders)]
        if stalled:
            names.insert(0, "stalled")
        # A crowd at a time: each joining by itself, told to all the others by a write to each,
        # would take as long as the measurement.
        for first in range(0, len(names), 100):
            crowd = []
            for name in names[first : first + 100]:
                sock, buffer = connect(port, 8192 if name == "stalled" else 0)
                self._socks.append(sock)
                crowd.append((sock, buffer, name))
            for sock, _, name in crowd:
                sock.sendall(client_frame(name.encode()))
            for sock, buffer, name in crowd:
                welcomed(sock, buffer, name)
                if name == "stalled":
                    self.stalled = Receiver(sock, buffer, sock.send, check=True)
                elif name[0] == "s":
                    self.senders.append(Sender(sock, buffer))
                else:
                    first_one = not self.receivers
                    self.receivers.append(Receiver(sock, buffer, sock.send, check=first_one))
        self._on: dict[int, Callable[[], None]] = {}
        for receiver in self.receivers:
            self._watch(receiver.sock, lambda r=receiver: self._settle(r))
        for sender in self.senders:
            self._watch(sender.sock, lambda s=sender: self._drop(s))
        # All has arrived that was under way when the last one has seen this mark.
        self._unsettled = set(self.receivers)
        self.senders[0].send(client_frame(MARK.ljust(TEXT_SIZE, b".")))
        left = len(self.receivers) + 1
        while self._unsettled and len(self._unsettled) < left:
            left = len(self._unsettled)
            self._run(PATIENCE, lambda: not self._unsettled)
        if self._unsettled:
            raise Deaf(len(self.receivers) - left, len(self.receivers))
        for receiver in self.receivers:
            self._watch(receiver.sock, lambda r=receiver: self._count(r))

    # One turn of the loop.

    def _watch(self, sock: socket.socket, react: Callable[[], None]) -> None:
        if sock.fileno() not in self._on:
            self._poll.register(sock.fileno())
        self._on[sock.fileno()] = react

    def _run(
        self, seconds: float, done: Callable[[], bool], each: Callable[[], None] | None = None
    ) -> float:
        """Poll until `done` or for `seconds`; return the seconds it took."""
        begun = time.perf_counter()
        while not done() and time.perf_counter() - begun < seconds:
            for fd in self._poll.ready(0.05 if each is None else 0.0005):
                self._on[fd]()
            if each is not None:
                each()
        return time.perf_counter() - begun

    def _read(self, sock: socket.socket) -> int:
        """Read into the common buffer; return how much there was."""
        try:
            size = sock.recv_into(self._buffer)
        except BlockingIOError:
            return 0
        if not size:
            raise UserError("the server closed a connection in the middle of the run.")
        return size

    def _settle(self, receiver: Receiver) -> None:
        receiver.buffer += self._buffer[: self._read(receiver.sock)]
        if receiver.begin():
            self._unsettled.discard(receiver)

    def _count(self, receiver: Receiver) -> None:
        receiver.feed(self._buffer, self._read(receiver.sock))

    def _drop(self, sender: Sender) -> None:
        sender.heard.feed(self._buffer, self._read(sender.sock))

    # What is measured.

    @property
    def sent(self) -> int:
        """Lines said so far."""
        return sum(sender.number for sender in self.senders)

    @property
    def arrived(self) -> int:
        """Lines that have arrived, over all receivers."""
        return sum(receiver.count for receiver in self.receivers)

    @property
    def in_order(self) -> bool:
        """Whether the first receiver has had each sender's lines complete and in order."""
        return all(receiver.checked for receiver in self.receivers)

    def saturate(self, seconds: float, window: int) -> float:
        """Keep lines in flight: a line is in flight until every receiver has it.

        Args:
            seconds: for how long.
            window: how many lines, of all senders together.

        Returns:
            The seconds it really took.
        """
        turn, low, sent = 0, -1, self.sent
        last = self.receivers[0]

        def refill() -> None:
            # As long as the last receiver is where it was, so is the window; looking at all of
            # them after each poll would take more time than reading from them.
            nonlocal turn, low, sent, last
            if last.count + last.missed == low:
                return
            last = min(self.receivers, key=lambda r: r.count + r.missed)
            low = last.count + last.missed
            shares = [0] * len(self.senders)
            for _ in range(window - sent + low):
                shares[turn % len(shares)] += 1
                turn += 1
            for sender, share in zip(self.senders, shares, strict=True):
                if share or sender.waiting:
                    sender.say(share)
            sent = max(sent, low + window)

        return self._run(seconds, lambda: False, refill)

    def pace(self, seconds: float, rate: float) -> list[float]:
        """Say lines at a pace, come what may.

        Latency counts from the moment at which a line was due, so that a sender held up by the
        server does not hide it. What has not arrived three seconds after the end counts as that
        late.

        Args:
            seconds: for how long.
            rate: lines a second.

        Returns:
            Each delivery's latency in seconds, sorted.
        """
        due: list[float] = []
        latencies = array("d")
        total = int(seconds * rate)
        begun = time.perf_counter()
        base = [receiver.count for receiver in self.receivers]
        for i, receiver in enumerate(self.receivers):

            def timed(receiver: Receiver = receiver, base: int = base[i]) -> None:
                before = receiver.count - base
                receiver.feed(self._buffer, self._read(receiver.sock))
                now = time.perf_counter()
                latencies.extend(now - due[n] for n in range(before, receiver.count - base))

            self._watch(receiver.sock, timed)

        def say() -> None:
            now = time.perf_counter()
            while len(due) < total and begun + len(due) / rate <= now:
                due.append(begun + len(due) / rate)
                self.senders[len(due) % len(self.senders)].say(1)
            for sender in self.senders:
                if sender.waiting:
                    sender.say(0)

        expected = total * len(self.receivers)
        self._run(seconds + 3, lambda: len(latencies) >= expected, say)
        end = time.perf_counter()
        for receiver, start in zip(self.receivers, base, strict=True):
            latencies.extend(end - at for at in due[receiver.count - start :])
            self._watch(receiver.sock, lambda r=receiver: self._count(r))
        return sorted(latencies)

    def drain(self, seconds: float = 15, timeout: float = 1) -> tuple[int, bool]:
        """Wait until everything has arrived, or nothing more does.

        Args:
            seconds: how long to wait at most.
            timeout: seconds without any arrival that end the wait.

        Returns:
            How many deliveries are missing, and whether they were still coming in when the time
            was over: those are late, the others lost.
        """
        expected = self.sent * len(self.receivers)
        arrived, moved = self.arrived, time.perf_counter()

        def push() -> None:
            nonlocal arrived, moved
            for sender in self.senders:
                if sender.waiting:
                    sender.say(0)
            if self.arrived != arrived:
                arrived, moved = self.arrived, time.perf_counter()

        def done() -> bool:
            return arrived >= expected or time.perf_counter() - moved > timeout

        self._run(seconds, done, push)
        return expected - self.arrived, not done()

    def wake_stalled(self, seconds: float = 10) -> Receiver:
        """Let the stalled member read all it can get.

        Args:
            seconds: for how long at most.

        Returns:
            The member, with its counts.
        """
        stalled = self.stalled
        assert stalled is not None
        self._unsettled = {stalled}

        def read() -> None:
            if stalled in self._unsettled:
                self._settle(stalled)
                if stalled not in self._unsettled:
                    stalled.feed(self._buffer, 0)
            else:
                self._count(stalled)

        self._watch(stalled.sock, read)
        self._run(seconds, lambda: stalled.count + stalled.missed >= self.sent)
        return stalled

    def close(self) -> None:
        """Drop all connections."""
        self._poll.close()
        for sock in self._socks:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Poll:
    """Descriptors that are ready to read; `epoll` where there is one, since `selectors` costs."""

    def __init__(self) -> None:
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._all: list[int] = []

    def register(self, fd: int) -> None:
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        else:
            self._all.append(fd)

    def ready(self, timeout: float) -> Iterator[int]:
        if self._epoll is not None:
            return (fd for fd, _ in self._epoll.poll(timeout))
        return iter(select.select(self._all, [], [], timeout)[0])

    def close(self) -> None:
        if self._epoll is not None:
            self._epoll.close()
