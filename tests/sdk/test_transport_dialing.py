"""A host may have many addresses: one that leads nowhere costs a moment, in sync code as in async."""

import errno
import select
import socket
import sys
from contextlib import ExitStack

import httpcore
import pytest

from llm_config_sdk import ConnectFailedError, RequestTimeoutError, StackTransport
from llm_config_sdk.transport import Endpoint, WireRequest
from llm_config_sdk.transport.deadline import Deadline
from llm_config_sdk.transport.dialing import dial

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only there is all of 127.0.0.0/8 this machine"
)

AMPLE = 10.0  # seconds, far more than is needed
HERE = "127.0.0.1"
NOBODY = "127.0.0.9"  # listens there
SILENT = "127.0.0.7"  # answers nothing there


@pytest.fixture
def silent(server):
    """An address at the server's port whose line is full: it lets nobody in, and does not say so."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((SILENT, server.port), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield SILENT


@pytest.fixture
def ask(server, monkeypatch):
    def ask(*hosts, timeout=AMPLE):
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, server.port)) for host in hosts]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        transport = StackTransport()
        try:
            request = WireRequest("GET", Endpoint.parse(f"http://many:{server.port}"), "/health", {})
            return transport.send(request, timeout).status
        finally:
            transport.close()

    return ask


def test_an_address_that_refuses_leads_on_to_the_next(ask, server):
    assert ask(NOBODY, HERE) == 200


def test_an_address_that_is_silent_is_not_waited_for(ask, silent, server):
    assert ask(silent, HERE, timeout=None) == 200


def test_a_deadline_holds_where_all_are_silent(ask, silent):
    with pytest.raises(RequestTimeoutError, match="connecting") as caught:
        ask(silent, timeout=0.3)
    assert caught.value.never_sent


class Hasty:
    """A clock, a deadline 0.2 s away, and a `poll` for which nothing ever happens."""

    def __init__(self):
        self.now = 0.0

    def left(self, phase):
        if self.now >= 0.2:
            raise httpcore.ConnectTimeout(phase)
        return 0.2 - self.now

    def register(self, *_):
        pass

    def poll(self, milliseconds):
        self.now += milliseconds / 1000
        return []


def test_a_short_deadline_is_shared_so_that_each_address_has_its_turn(server, silent, monkeypatch):
    hasty, tried, system = Hasty(), [], socket.socket

    def make(*kind):
        tried.append(hasty.now)
        return system(*kind)

    monkeypatch.setattr(select, "poll", lambda: hasty)
    monkeypatch.setattr(socket, "socket", make)
    with pytest.raises(httpcore.ConnectTimeout):
        dial([(socket.AF_INET, (silent, server.port))] * 4, hasty)
    assert tried == pytest.approx([0.0, 0.05, 0.1, 0.15])
    assert hasty.now == pytest.approx(0.2)


def test_a_guard_of_connect_is_asked_for_each_address(ask, monkeypatch):
    def guarded(_socket, address):
        raise PermissionError(errno.EPERM, f"tests stay off the network: {address[0]}")

    monkeypatch.setattr(socket.socket, "connect", guarded)
    with pytest.raises(ConnectFailedError, match="not permitted"):
        ask(NOBODY, HERE)


def test_where_nobody_can_be_reached_each_reason_is_told_once(ask):
    broadcast = "255.255.255.255"
    with pytest.raises(ConnectFailedError) as caught:
        ask(NOBODY, broadcast, NOBODY)
    assert str(caught.value).count("Connection refused") == 1
    assert any(reason in str(caught.value) for reason in ("Permission denied", "Network is unreachable"))
    assert caught.value.never_sent


def test_a_host_without_an_address_is_told(ask):
    with pytest.raises(ConnectFailedError, match="no address"):
        ask()


def test_families_take_turns_and_one_that_the_system_has_not_is_passed_over(server, monkeypatch):
    made, system = [], socket.socket

    def make(family, kind):
        made.append(family)
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return system(family, kind)

    monkeypatch.setattr(socket, "socket", make)
    sixth = [(socket.AF_INET6, (f"::{number}", server.port, 0, 0)) for number in (2, 3, 4)]
    fourth = [(socket.AF_INET, (host, server.port)) for host in (NOBODY, HERE)]
    with dial([*sixth, *fourth], Deadline(httpcore, AMPLE)) as connected:
        assert connected.getpeername() == (HERE, server.port)
    assert made == [socket.AF_INET6, socket.AF_INET, socket.AF_INET6, socket.AF_INET]
