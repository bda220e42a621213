"""Lesson 4's exercises, and the wrong answers that people write to them."""

from __future__ import annotations

from author import closing_tests

from wslessons.exercises import check

THREE = check.at_most_three.solution_source


def healthy(body: str) -> str:
    """An answer to `health`."""
    return f"def health(connection, request):\n    {body}\n"


def origin(body: str) -> str:
    """An answer to `same_origin`."""
    lines = [
        "def same_origin(connection, request):",
        "    origin = request.headers.get('Origin')",
        "    host = request.headers['Host']",
        f"    {body}",
    ]
    return "\n".join([*lines, "        return connection.respond(403, 'no')", ""])


WRONG = {
    "health": [
        ("for every path", healthy("return connection.respond(200, 'ok')"), "return None"),
        (
            "a text",
            healthy("return 'ok' if request.path == '/healthz' else None"),
            "Return what connection.respond(200, ...) makes",
        ),
        (
            "not returned",
            healthy("request.path == '/healthz' and connection.respond(200, 'ok') and None"),
            "so the handshake went on",
        ),
        (
            "the path as it is",
            healthy("return connection.respond(200, 'ok') if request.path == '/healthz' else None"),
            "not part of the path",
        ),
        (
            "the beginning",
            healthy(
                "return connection.respond(200, 'ok') if request.path.startswith('/healthz')"
                " else None"
            ),
            "only begins like",
        ),
        (
            "no content",
            healthy("return connection.respond(204, '') if '/healthz' in request.path else None"),
            "200 is the first argument",
        ),
        (
            "another text",
            healthy(
                "return connection.respond(200, 'fine')"
                " if request.path.partition('?')[0] == '/healthz' else None"
            ),
            "second argument",
        ),
    ],
    "same_origin": [
        ("a list of the bad", origin("if origin == 'https://evil.example':"), "No list of the bad"),
        (
            "it is always there",
            origin("if request.headers['Origin'] != 'http://' + host:"),
            "headers.get() gives None",
        ),
        (
            "scripts are suspicious",
            origin("if origin != 'http://' + host:"),
            "Only browsers send an Origin",
        ),
        (
            "the beginning",
            origin("if origin and not origin.startswith('http://' + host):"),
            "begins",
        ),
        ("the end", origin("if origin and not origin.endswith(host):"), "only ends like ours"),
        (
            "the host alone",
            origin("if origin and origin.split(':')[:2] != ['http', '//127.0.0.1']:"),
            "Another port",
        ),
        (
            "null is nobody",
            origin("if origin and origin != 'null' and origin != 'http://' + host:"),
            "sandboxed page",
        ),
        (
            "without http",
            origin("if origin and origin != host:"),
            "port and all",
        ),
        (
            "401",
            origin("if origin and origin != 'http://' + host:").replace("403", "401"),
            "is 403",
        ),
    ],
    "at_most_three": [
        (
            "everything counts",
            THREE.replace(
                'if scope["type"] != "websocket"', 'if scope["type"] == "lifespan"'
            ).replace(
                "            count -= 1", '            count -= scope["type"] == "websocket"'
            ),
            "look at scope['type']",
        ),
        ("never down", THREE.replace("            count -= 1", "            pass"), "Count down"),
        (
            "after it",
            THREE.replace("        try:\n    ", "").replace(
                "        finally:\n            count -= 1", "        count -= 1"
            ),
            "use finally",
        ),
        ("more than three", THREE.replace("count == 3", "count > 3"), "while three are inside"),
        (
            "two",
            THREE.replace("count == 3", "count == 2"),
            "Let this client in",
        ),
        (
            "accepted, then closed",
            THREE.replace(
                "            return await send",
                '            await receive(); await send({"type": "websocket.accept"})\n'
                "            return await send",
            ),
            "send no accept before",
        ),
        (
            "just return",
            THREE.replace('return await send({"type": "websocket.close"})', "return"),
            "Say no by",
        ),
        (
            "a count for each",
            THREE.replace("    count = 0\n", "").replace("nonlocal count", "count = 0"),
            "It was let in",
        ),
    ],
}

test_exercises_are_whole, test_wrong_answers_get_their_hints = closing_tests(4, WRONG)
