"""Coverage-guided fuzzing of all that reads what strangers send, by atheris. Not in the suite.

    python -m uv run --with atheris python tests/fuzz.py text -max_total_time=60

The first word names a parser of `PARSERS`; the others are libFuzzer's. It ends with a report and a
file if a parser raises anything that it does not document. What runs in the suite, by hypothesis
and against live servers, is in `tests/chat/test_fuzz.py`.

Source: https://github.com/google/atheris
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

NAMES = ("text", "json", "text client", "json client", "wire", "bus", "token", "address", "url")


def parsers() -> dict[str, Callable[[bytes], object]]:
    """Make what is to be fuzzed, by name."""
    import msgspec

    from wslessons.chat.codecs import JSON, TEXT
    from wslessons.errors import UserError
    from wslessons.exercises.production import read_token
    from wslessons.guard.addresses import Forwarded, Networks
    from wslessons.scaling.bus import from_url
    from wslessons.scaling.bus.items import decode
    from wslessons.wire import Decoder

    proxies = Forwarded(lambda *_: None, Networks(["10.0.0.0/8"]))  # ty: ignore[invalid-argument-type]

    def both(codec: Any) -> Callable[[bytes], None]:
        def read(data: bytes) -> None:
            text = data.decode(errors="replace")
            with contextlib.suppress(ValueError):
                codec.decode_hello(text)
            codec.decode_client(text)

        return read

    def wire(data: bytes) -> None:
        decoder, half = Decoder(), len(data) // 2
        decoder.feed("client->server", data[:half], 0)
        decoder.feed("server->client", data[half:], 1)
        decoder.feed_eof("client->server", 2)

    def bus(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            decode(data)

    def url(data: bytes) -> None:
        with contextlib.suppress(UserError):
            from_url(data.decode(errors="replace"))

    def address(data: bytes) -> None:
        host, _ = proxies.behind(("10.0.0.1", 1), data.decode("latin-1"))
        assert host.isprintable()

    def json_client(data: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            JSON.decode_server(data)

    return {
        "text": both(TEXT),
        "json": both(JSON),
        "text client": lambda data: TEXT.decode_server(data.decode(errors="replace")),
        "json client": json_client,
        "wire": wire,
        "bus": bus,
        "token": lambda data: read_token(data.decode("latin-1")),
        "address": address,
        "url": url,
    }


def main() -> None:
    """Fuzz the parser that the command line names."""
    atheris = importlib.import_module("atheris")
    if sys.argv[1:2] == [] or sys.argv[1] not in NAMES:
        sys.exit(f"name a parser: {', '.join(NAMES)}")
    with atheris.instrument_imports(include=["wslessons"]):
        target = parsers()[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
