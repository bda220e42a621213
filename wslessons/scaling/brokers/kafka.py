"""An emulator of Kafka, in a process of its own: librdkafka's mock cluster.

It is not Kafka. It speaks Kafka's protocol to any client and keeps what it is sent in memory, at
most 5 MiB a partition; there is no disk, no replication and no election, and its speed says
nothing about Kafka's. Source: `rdkafka_mock.h` of librdkafka.

Run as ``python -m wslessons.scaling.brokers.kafka FILE NODES``, it writes where it listens into
FILE and stays until it is ended.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from wslessons.errors import UserError, need
from wslessons.scaling.brokers.process import Process, Stopped

__all__ = ["LABEL", "KafkaEmulator", "start"]

LABEL = "Kafka emulator (librdkafka's mock cluster, not Kafka)"


class KafkaEmulator:
    """The emulator. All its brokers are in one process, which forgets everything when it ends."""

    def __init__(self, brokers: int) -> None:
        need("confluent_kafka", "kafka")
        self._brokers = brokers
        self.process = Process("kafka-emulator")
        self.address = ""
        """Where clients connect, ``HOST:PORT,HOST:PORT``; other ports after a restart."""

    @property
    def url(self) -> str:
        """The bus's URL. A fetch of the emulator lasts until its time is up, whatever comes in."""
        return f"kafka://{self.address}?fetch_wait=5"

    def start(self) -> None:
        """Start the emulator; after `kill` it comes back empty, and elsewhere."""
        file = self.process.home / "address.txt"
        file.unlink(missing_ok=True)
        module = "wslessons.scaling.brokers.kafka"
        self.process.start(sys.executable, "-m", module, str(file), str(self._brokers))
        try:
            self.address = self.process.wait_for(lambda: _whole_line(file))
        except Stopped as exc:
            raise UserError(f"the Kafka emulator did not start: {exc}.") from None

    def kill(self) -> None:
        """End it with SIGKILL, and with it all it was sent."""
        self.process.kill()


def start(brokers: int) -> KafkaEmulator:
    """Start an emulator of that many brokers."""
    emulator = KafkaEmulator(brokers)
    try:
        emulator.start()
    except BaseException:
        emulator.process.close()
        raise
    return emulator


def _whole_line(file: Path) -> str | None:
    text = file.read_text() if file.exists() else ""
    return text.strip() if text.endswith("\n") else None


def main() -> None:
    """Emulate until ended."""
    admin = need("confluent_kafka.admin", "kafka").AdminClient(
        # The emulator belongs to this client and ends with it; 3 is librdkafka's log level "error".
        {"test.mock.num.brokers": int(sys.argv[2]), "bootstrap.servers": "", "log_level": 3}
    )
    brokers = admin.list_topics(timeout=10).brokers.values()
    Path(sys.argv[1]).write_text(",".join(f"{each.host}:{each.port}" for each in brokers) + "\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
