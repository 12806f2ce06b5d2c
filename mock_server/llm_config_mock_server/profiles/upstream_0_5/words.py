"""Words: the four shapes in which this server says that something is wrong."""

from __future__ import annotations

from typing import Final

from llm_config_mock_server.messages import Header, Reply, json_reply, reason_phrase

POLICY: Final = "Request rejected due to security policy"
INVALID_URL: Final = "Invalid URL: "
NO_SYNTAX: Final = "Failed to parse the request body as JSON: "
NO_SHAPE: Final = "Failed to deserialize the JSON body into the target type: "
NO_QUERY: Final = "Failed to deserialize query string: "
NO_JSON_TYPE: Final = "Expected request with `Content-Type: application/json`"
TOO_LONG: Final = "Failed to buffer the request body: length limit exceeded"


class RefusedError(Exception):
    """A request was refused, or failed, with this reply."""

    def __init__(self, reply: Reply) -> None:
        """Remember the reply."""
        super().__init__(f"{reply.status} {reply.body!r}")
        self.reply = reply


def flat(status: int, message: str, *headers: Header) -> Reply:
    """Say an error as JSON: the reason phrase and a message, nothing else."""
    return json_reply(status, {"error": reason_phrase(status), "message": message}, *headers)


def text(status: int, message: str) -> Reply:
    """Say an error as the framework below does: plain text."""
    return Reply(status, (("content-type", "text/plain; charset=utf-8"),), message.encode())


def from_proxy(status: int) -> Reply:
    """Say what a proxy before a server that is away says: a page, which this server never sends itself."""
    title = f"{status} {reason_phrase(status)}"
    head, body = f"<head><title>{title}</title></head>", f"<body><center><h1>{title}</h1></center></body>"
    return Reply(
        status, (("content-type", "text/html"),), f"<html>\r\n{head}\r\n{body}\r\n</html>\r\n".encode()
    )


def empty(status: int, *headers: Header) -> Reply:
    """Say an error without a word: no such route (404), no such method (405), no HTTP (400, 414, 431)."""
    return Reply(status, headers)
