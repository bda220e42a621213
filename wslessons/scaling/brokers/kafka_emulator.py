"""An emulator of Kafka, in a process of its own: librdkafka's mock cluster.

It is not Kafka. It speaks Kafka's protocol to any client and keeps what it is sent in memory, at
most 5 MiB a partition; there is no disk, no replication and no election, and its speed says
nothing about Kafka's. Source: `rdkafka_mock.h` of librdkafka.

Run as ``python -m wslessons.scaling.brokers.kafka_emulator FILE NODES``, it writes where it listens
into FILE and stays until it is ended.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from wslessons.errors import UserError, need
from wslessons.processes import ServerProcess, Stopped

__all__ = ["LABEL", "KafkaEmulator"]

LABEL = "Kafka emulator (librdkafka's mock cluster, not Kafka)"


class KafkaEmulator(ServerProcess):
    """The emulator. It forgets everything when it ends, and comes back empty, and elsewhere.

    Args:
        brokers: how many Kafka brokers to emulate, all in one process.
    """

    def __init__(self, brokers: int) -> None:
        need("confluent_kafka", "kafka")
        super().__init__("kafka-emulator")
        self._brokers = brokers
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients connect, ``HOST:PORT,HOST:PORT``; other ports after a restart."""
        return self._address

    def start(self) -> None:
        """Start the emulator.

        Raises:
            UserError: it does not start.
        """
        file = self.home / "address.txt"
        file.unlink(missing_ok=True)
        self._run(sys.executable, "-m", __name__, str(file), str(self._brokers))
        try:
            self._address = self._wait_for(lambda: _whole_line(file))
        except Stopped as exc:
            raise UserError(f"the Kafka emulator did not start: {exc}.") from None


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
