"""Whole responses, byte by byte, led on by what of the code they reach: what random examples would not find.

make guided GUIDED=600
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["h11", "llm_config_sdk", "llm_config_resilience"]):
    import h11

    from fuzz.strategies import DOCUMENTS, encoded
    from fuzz.test_replies import OPERATIONS, assert_sound
    from llm_config_sdk import LLMConfigError
    from llm_config_sdk.decoding import decode_error
    from llm_config_sdk.transport.http11 import Http11
    from llm_config_sdk.transport.mapping import map_error

STATUSES = (200, 404, 429, 503)
MAX_BYTES = 1024 * 1024
LONGEST = 4096  # bytes of a response


def try_one(data: bytes) -> None:
    """Read a response as the operation that its first byte names does: a value, or an error that is sound."""
    if not data:
        return
    operation, connection = OPERATIONS[data[0] % len(OPERATIONS)], Http11(MAX_BYTES)
    connection.request("GET", "/", [(b"Host", b"config.example.com")])
    connection.sent()
    try:
        if connection.receive(data[1:], lambda: None):
            connection.receive(b"", lambda: None)
        reply = connection.reply()
        if not reply.is_success:
            raise decode_error(reply)
        operation.read(reply)
    except LLMConfigError as error:
        assert_sound(error)
    except h11.RemoteProtocolError as error:
        assert_sound(map_error(error, endpoint="https://config.example.com"))


def write_seeds(folder: str) -> None:
    """Write down what servers do answer, to begin with."""
    bodies = [*map(encoded, DOCUMENTS), b"<html><title>Bad gateway</title></html>", b""]
    for status in STATUSES:
        for number, body in enumerate(bodies):
            head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            response = head.encode() + b"retry-after: 7\r\n\r\n" + body
            Path(folder, f"{status}-{number}").write_bytes(bytes([number]) + response)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as corpus:
        write_seeds(corpus)
        limits = [f"-max_total_time={sys.argv[1]}", f"-max_len={LONGEST}", "-timeout=20"]
        atheris.Setup([sys.argv[0], corpus, *limits], try_one)
        atheris.Fuzz()
