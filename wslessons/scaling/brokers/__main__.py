"""``python -m wslessons.scaling.brokers``: bring a real Apache Kafka, which no package has."""

from __future__ import annotations

import sys

from wslessons.errors import UserError
from wslessons.scaling.brokers.kafka import VERSION, bring

__all__: list[str] = []


def main() -> int:
    """Bring it, and say where it is.

    Returns:
        The exit code.
    """
    try:
        print(f"Apache Kafka {VERSION} is in {bring()}")
    except UserError as exc:
        print(f"wslessons: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
