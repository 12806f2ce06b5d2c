"""Names of hosts are looked up within the deadline, in sync code too, where nothing interrupts the system."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from llm_config_sdk import ConnectFailedError, RequestTimeoutError, StackTransport
from llm_config_sdk.transport import Endpoint, WireRequest
from llm_config_sdk.transport.lookups import LookUps

AMPLE = 10.0  # seconds, far more than is needed
NAME = "config.example.com"
HERE = [(socket.AF_INET, ("127.0.0.1", 80))]


class NameServer:
    """Stands for the system's: answers when it is let."""

    def __init__(self, monkeypatch):
        self.asked = 0
        self.answers = threading.Event()
        self.error = None
        self.system = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host, port, *numbers, **options):
        if host != NAME or options.get("flags"):
            return self.system(host, port, *numbers, **options)
        self.asked += 1
        self.answers.wait(AMPLE)
        if self.error is not None:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def names(monkeypatch):
    server = NameServer(monkeypatch)
    yield server
    server.answers.set()


def health(server):
    return WireRequest("GET", Endpoint.parse(f"http://{NAME}:{server.port}"), "/health", {})


def looking_up():
    return [thread for thread in threading.enumerate() if thread.name == "llm-config-look-up"]


class Patient:
    """A deadline that is far away, and counts who waits."""

    def __init__(self):
        self.waiting = threading.Semaphore(0)

    def left(self, phase):
        assert phase == "Connect"
        self.waiting.release()
        return AMPLE


def crowd(number, names):
    """Make a call in so many threads, let the name server answer when all wait, and give what they get."""
    patient, look_ups, became = Patient(), LookUps(), []

    def make():
        try:
            became.append(look_ups.addresses_of(NAME, 80, patient))
        except socket.gaierror as error:
            became.append(error)

    threads = [threading.Thread(target=make) for _ in range(number)]
    for thread in threads:
        thread.start()
    for _ in range(number):
        assert patient.waiting.acquire(timeout=AMPLE)
    names.answers.set()
    for thread in threads:
        thread.join(AMPLE)
    return became


def test_a_deadline_holds_while_a_name_is_looked_up(names, server):
    transport, started = StackTransport(), time.monotonic()
    with pytest.raises(RequestTimeoutError, match="connecting") as caught:
        transport.send(health(server), 0.1)
    assert time.monotonic() - started < AMPLE / 2
    assert caught.value.never_sent
    names.answers.set()
    for thread in looking_up():
        thread.join(AMPLE)
    assert looking_up() == []
    assert transport.send(health(server), AMPLE).status == 200
    transport.close()


def test_all_who_ask_at_once_ask_once(names):
    assert crowd(8, names) == [HERE] * 8
    assert names.asked == 1


def test_each_is_told_of_a_failure_by_an_error_of_its_own(names):
    names.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    errors = crowd(3, names)
    assert {(type(error), error.args) for error in errors} == {(socket.gaierror, names.error.args)}
    assert len({id(error) for error in errors}) == 3


def test_a_name_that_nobody_knows_is_a_failure_to_connect(names, server):
    names.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    names.answers.set()
    transport = StackTransport()
    with pytest.raises(ConnectFailedError, match=r"looking up the host: .*not known") as caught:
        transport.send(health(server), AMPLE)
    assert caught.value.never_sent
    transport.close()


def test_who_asks_later_has_a_new_answer(names):
    names.answers.set()
    look_ups = LookUps()
    for _ in range(2):
        assert look_ups.addresses_of(NAME, 80, Patient()) == HERE
    assert names.asked == 2


@pytest.mark.parametrize("step", ["__init__", "start"])
def test_without_another_thread_the_caller_looks_up_itself(names, monkeypatch, step):
    def no_more(*_args, **_options):
        raise RuntimeError("can't start new thread")

    names.answers.set()
    monkeypatch.setattr(threading.Thread, step, no_more)
    look_ups = LookUps()
    for _ in range(2):
        assert look_ups.addresses_of(NAME, 80, Patient()) == HERE


def test_a_system_that_has_not_what_it_takes_to_ask_has_sent_nothing(names, server):
    names.error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    names.answers.set()
    transport = StackTransport()
    with pytest.raises(ConnectFailedError, match="Too many open files") as caught:
        transport.send(health(server), AMPLE)
    assert caught.value.never_sent
    transport.close()


def test_what_forbids_looking_up_is_heard_by_the_caller(names):
    names.error = pytest.fail.Exception("no network in tests")
    names.answers.set()
    with pytest.raises(pytest.fail.Exception, match="no network in tests"):
        LookUps().addresses_of(NAME, 80, Patient())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_needs_no_looking_up(names, monkeypatch, address):
    monkeypatch.setattr(threading.Thread, "start", None)
    ((_, found),) = LookUps().addresses_of(address, 80, Patient())
    assert found[:2] == (address, 80)
    assert names.asked == 0


def test_who_was_interrupted_leaves_nobody_waiting(names, monkeypatch):
    def interrupted(_thread):
        raise KeyboardInterrupt

    look_ups = LookUps()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            look_ups.addresses_of(NAME, 80, Patient())
    names.answers.set()
    assert look_ups.addresses_of(NAME, 80, Patient()) == HERE


def test_who_had_joined_one_that_was_interrupted_asks_again(names, monkeypatch):
    look_ups, patient, became, start = LookUps(), Patient(), [], threading.Thread.start

    def interrupted(_thread):
        monkeypatch.setattr(threading.Thread, "start", start)
        joining.start()
        assert patient.waiting.acquire(timeout=AMPLE)
        raise KeyboardInterrupt

    joining = threading.Thread(target=lambda: became.append(look_ups.addresses_of(NAME, 80, patient)))
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        look_ups.addresses_of(NAME, 80, patient)
    names.answers.set()
    joining.join(AMPLE)
    assert became == [HERE]


def test_a_program_ends_while_a_name_is_looked_up():
    program = """
import socket, threading, httpcore
from llm_config_sdk.transport.deadline import Deadline
from llm_config_sdk.transport.lookups import LOOK_UPS
system = socket.getaddrinfo

def getaddrinfo(host, port, **options):
    return system(host, port, **options) if options.get("flags") else threading.Event().wait()

socket.getaddrinfo = getaddrinfo
try:
    LOOK_UPS.addresses_of("localhost", 80, Deadline(httpcore, 0.05))
except httpcore.ConnectTimeout:
    print("late")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("late\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_child_process_asks_for_itself():
    # In a program of its own: this one has threads, and forking those is what no program should do.
    program = """
import os, socket, sys, threading, httpcore
from llm_config_sdk.transport.deadline import Deadline
from llm_config_sdk.transport.lookups import LOOK_UPS
system, parent = socket.getaddrinfo, os.getpid()

def getaddrinfo(host, port, **options):
    if os.getpid() == parent and not options.get("flags"):
        threading.Event().wait()
    return system(host, port, **options)

socket.getaddrinfo = getaddrinfo
try:
    LOOK_UPS.addresses_of("localhost", 80, Deadline(httpcore, 0.05))
except httpcore.ConnectTimeout:
    pass
child = os.fork()
if child == 0:
    os._exit(0 if LOOK_UPS.addresses_of("localhost", 80, Deadline(httpcore, 30.0)) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
