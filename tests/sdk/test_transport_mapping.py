"""Every exception of every HTTP library becomes one of the SDK's: the libraries' own modules are walked."""

import inspect
import socket
import ssl

import anyio
import h11
import httpcore
import httpcore2
import httpx
import httpx2
import pytest

from llm_config_sdk.errors import (
    ConnectFailedError,
    InvalidRequestError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)
from llm_config_sdk.transport import waited_in_line
from llm_config_sdk.transport.mapping import _BY_NAME, map_error

ENDPOINT = "http://config.example"
TIMEOUTS = {"ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutException"}
REFUSED = {"ConnectError", "ProxyError"}
CALLERS = {"UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "CookieConflict", "TooManyRedirects"}
NEVER_SENT = {"ConnectTimeout", "PoolTimeout", "ConnectError", "ProxyError", "ConnectionNotAvailable"}
BY_ANCESTOR = {"SSEError", "HTTPStatusError"}  # of parts that the SDK does not use, or reads otherwise


def exceptions(library):
    return [
        member
        for name, member in sorted(vars(library).items())
        if inspect.isclass(member) and issubclass(member, Exception) and not name.startswith("_")
    ]


LIBRARIES = [httpx, httpx2, httpcore, httpcore2]
ALL = [(library.__name__, cls) for library in LIBRARIES for cls in exceptions(library)]


def made(cls):
    error = cls.__new__(cls)
    error.args = ("told",)
    return error


@pytest.mark.parametrize(
    ("library", "cls"), ALL, ids=lambda part: part if isinstance(part, str) else part.__name__
)
def test_every_exception_of_a_library_has_its_place(library, cls):
    error = map_error(made(cls), endpoint=ENDPOINT, timeout=1.5)
    name = cls.__name__
    if name in TIMEOUTS:
        expected = RequestTimeoutError
    elif name in REFUSED:
        expected = ConnectFailedError
    elif name in CALLERS:
        expected = InvalidRequestError
    elif name == "DecodingError":
        expected = ResponseDecodeError
    else:
        expected = TransportError
    assert type(error).__name__ == expected.__name__, f"{library}.{name}"
    assert error.endpoint == ENDPOINT
    if isinstance(error, TransportError):
        assert error.never_sent is (name in NEVER_SENT)
        assert waited_in_line(error) is (name in {"PoolTimeout", "ConnectionNotAvailable"})


def test_the_walk_finds_the_exceptions():
    assert [len(exceptions(library)) for library in LIBRARIES] >= [28, 28, 15, 15]


def test_no_exception_is_placed_by_a_distant_ancestor_unnoticed():
    unnamed = {cls.__name__ for _, cls in ALL} - set(_BY_NAME) - BY_ANCESTOR
    assert unnamed == {"RequestNotRead", "ResponseNotRead", "StreamClosed", "StreamConsumed"}, (
        "all StreamErrors"
    )


@pytest.mark.parametrize(
    ("raised", "expected", "never_sent"),
    [
        (ConnectionRefusedError(111, "refused"), ConnectFailedError, True),
        (socket.gaierror(-2, "Name or service not known"), ConnectFailedError, True),
        (ConnectionResetError(104, "reset"), TransportError, False),
        (BrokenPipeError(32, "pipe"), TransportError, False),
        (TimeoutError("slow"), RequestTimeoutError, False),
        (ssl.SSLError(1, "alert"), ConnectFailedError, False),
        (h11.RemoteProtocolError("bad"), TransportError, False),
        (anyio.EndOfStream(), TransportError, False),
        (anyio.BrokenResourceError(), TransportError, False),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Exception) else None,
)
def test_raw_errors_of_sockets_tls_and_anyio_have_theirs(raised, expected, never_sent):
    error = map_error(raised, endpoint=ENDPOINT)
    assert type(error).__name__ == expected.__name__
    assert error.never_sent is never_sent


def test_a_message_names_phase_time_and_what_was_said():
    assert map_error(httpx.ReadTimeout(""), endpoint=ENDPOINT, timeout=2.0).message == (
        "timed out while reading the response (it had 2 s)"
    )
    assert "ReadError" in map_error(httpx.ReadError(""), endpoint=ENDPOINT).message, "where it says nothing"
    assert "cut off" in map_error(httpx.ReadError("cut off"), endpoint=ENDPOINT).message


def test_a_certificate_that_is_not_accepted_is_named():
    inner = ssl.SSLCertVerificationError(1, "verify failed")
    inner.verify_message = "self-signed certificate"
    outer = httpx.ConnectError("failed")
    outer.__cause__ = inner
    error = map_error(outer, endpoint=ENDPOINT)
    assert isinstance(error, ConnectFailedError)
    assert "certificate is not accepted: self-signed certificate" in error.message


def test_a_closed_client_of_the_callers_is_the_callers_mistake():
    error = map_error(
        RuntimeError("Cannot send a request, as the client has been closed."), endpoint=ENDPOINT
    )
    assert isinstance(error, InvalidRequestError)


@pytest.mark.parametrize(
    "foreign", [ValueError("x"), RuntimeError("x"), KeyError("x"), LLMConfigError("x")], ids=repr
)
def test_what_is_no_librarys_is_left_alone(foreign):
    assert map_error(foreign, endpoint=ENDPOINT) is None


def raised(outer, *inner, together=False):
    """An error as the libraries raise it from the next, or from a group of them."""
    outer.__cause__ = ExceptionGroup("several attempts", inner) if together else inner[0]
    return outer


REFUSAL = ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            raised(httpcore.ConnectError("All connection attempts failed"), REFUSAL),
            "[Errno 111] Connection refused",
        ),
        (
            raised(
                httpx.ConnectError("All connection attempts failed"),
                raised(OSError("All connection attempts failed"), REFUSAL, OSError(101, "x"), together=True),
            ),
            "[Errno 111] Connection refused; [Errno 101] Network is unreachable",
        ),
        (
            raised(httpx.ReadError(""), raised(anyio.BrokenResourceError(), ConnectionResetError(104, "x"))),
            "[Errno 104] Connection reset by peer",
        ),
        (
            raised(httpcore.ConnectError("x"), socket.gaierror(-2, "Name or service not known")),
            "[Errno -2] Name or service not known",
        ),
        (
            raised(httpcore.ConnectError("EOF in the handshake"), ssl.SSLEOFError(8, "x")),
            "EOF in the handshake",
        ),
        (raised(httpcore.ConnectError("told"), ValueError()), "told"),
    ],
)
def test_the_reason_is_what_the_operating_system_said(error, said):
    assert map_error(error, endpoint=ENDPOINT).message.endswith(f": {said}")


def test_errors_that_are_behind_each_other_are_walked_once():
    error, other = httpcore.ConnectError("told"), ValueError()
    error.__context__, other.__context__ = other, error
    assert map_error(error, endpoint=ENDPOINT).message == "failed while connecting: told"
