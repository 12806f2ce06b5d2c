"""TLS as it is met in the field: real handshakes, good and bad, with what the caller is told to do."""

from __future__ import annotations

import json
import queue
import socket
import socketserver
import ssl
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from typer.testing import CliRunner

from client_faces import OWN, Face
from llm_config_sdk import ConfigClient, ConnectFailedError, InvalidRequestError, ResiliencePolicy
from llm_config_sdk.cli.app import app
from llm_config_sdk.transport import ssl_context

TIMEOUT = 30  # seconds: far beyond what loopback needs
NAME = ("app/llm", "model")
YESTERDAY, TOMORROW = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))


@pytest.fixture(params=[*OWN, *(f"{colour}, own httpx2" for colour in OWN)])
def face(request):
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def stranger():
    """An authority that nobody trusts."""
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, stranger, tmp_path_factory):
    """What an operator has on disk: the authority, and a client's certificates."""
    folder = tmp_path_factory.mktemp("tls")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, issuer in (("client", authority), ("stranger", stranger)):
        leaf = issuer.issue_cert(f"{name}@example.org")
        leaf.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    return folder


class Handler(socketserver.BaseRequestHandler):
    """One connection: a handshake, and one request that is passed on."""

    def handle(self):
        self.request.settimeout(TIMEOUT)
        wrapped = self.server.context.wrap_socket(
            self.request, server_side=True, do_handshake_on_connect=False
        )
        with wrapped, suppress(OSError):
            try:
                wrapped.do_handshake()
            except ssl.SSLError as error:
                self.server.told.put(error.reason)
                self.linger(wrapped)
                return
            self.pass_on(wrapped)

    def pass_on(self, wrapped):
        with wrapped.makefile("rb") as stream:
            head = list(iter(stream.readline, b"\r\n"))
            if b"" in head:
                return
            lengths = [int(line[15:]) for line in head if line.lower().startswith(b"content-length:")]
            request = b"".join(
                [head[0], b"Connection: close\r\n", *head[1:], b"\r\n", stream.read(*lengths or [0])]
            )
            with socket.create_connection(("127.0.0.1", self.server.behind.port), TIMEOUT) as upstream:
                upstream.sendall(request)
                while chunk := upstream.recv(65_536):
                    wrapped.sendall(chunk)

    def linger(self, wrapped):
        """Let the client read why: closing with something unread would reset the connection."""
        wrapped.shutdown(socket.SHUT_WR)  # and from now on it is a plain socket
        while wrapped.recv(65_536):
            pass


class Terminator(socketserver.ThreadingTCPServer):
    """Speaks TLS for a platform. asyncio's own servers end bad handshakes without a word."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, context, behind):
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = context
        self.behind = behind
        self.told = queue.SimpleQueue()  # what ended its handshakes
        self.url = f"https://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        del request, client_address  # a client that went away


@pytest.fixture
def serve(authority, server):
    """Starts a terminator with a certificate of its own."""
    server.put(*NAME, "gpt-4", env="production")
    with ExitStack() as stack:

        def serving(*names, issuer=authority, mutual=False, versions=None, **validity):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            issuer.issue_cert(*(names or ("127.0.0.1",)), **validity).configure_cert(context)
            if mutual:
                context.verify_mode = ssl.CERT_REQUIRED
                authority.configure_trust(context)
            if versions is not None:
                context.minimum_version, context.maximum_version = versions
            terminator = stack.enter_context(Terminator(context, server))
            thread = threading.Thread(target=terminator.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join, TIMEOUT)
            stack.callback(terminator.shutdown)
            return terminator

        yield serving


@pytest.fixture
def connect(face, clock, server):
    def connecting(terminator, **options):
        given = {"token": server.token("admin"), "environment": "production", "cache": None, "clock": clock}
        return face.client(terminator.url, **{**given, "trust_env": False, **options})

    return connecting


def refusal(client):
    """Ask, and return what the caller is told."""
    with pytest.raises(ConnectFailedError) as caught:
        client.get_config(*NAME)
    error = caught.value
    assert (error.never_sent, error.is_retriable, error.is_transient) == (True, False, True)
    assert error.attempts == 1, "the next handshake would end the same"
    return error


# --- The server's certificate -----------------------------------------------------------------------


def test_a_server_of_a_private_authority_is_read_from(connect, serve, files):
    server = serve()
    assert connect(server, verify=str(files / "ca.pem")).get_str(*NAME) == "gpt-4"
    assert connect(server, verify=files / "ca.pem").get_str(*NAME) == "gpt-4"


def test_the_authority_may_come_from_the_environment(connect, serve, files, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_CA_BUNDLE", str(files / "ca.pem"))
    server = serve()
    assert connect(server).get_str(*NAME) == "gpt-4"
    refusal(connect(server, verify=ssl.create_default_context()))


def test_a_certificate_for_another_host_is_refused(connect, serve, files):
    error = refusal(connect(serve("config.example.com"), verify=files / "ca.pem"))
    assert "not valid for '127.0.0.1'" in error.message
    assert "base URL" in error.hint


def test_an_expired_certificate_is_refused(connect, serve, files):
    expired = {"not_before": YESTERDAY - timedelta(days=9), "not_after": YESTERDAY}
    error = refusal(connect(serve(**expired), verify=files / "ca.pem"))
    assert "expired" in error.message
    assert "renew" in error.hint


def test_a_certificate_of_tomorrow_is_refused(connect, serve, files):
    error = refusal(connect(serve(not_before=TOMORROW), verify=files / "ca.pem"))
    assert "not yet valid" in error.message
    assert "clock" in error.hint


def test_an_authority_that_is_not_trusted_is_refused(connect, serve, stranger, files):
    server = serve(issuer=stranger)
    for verify in (files / "ca.pem", True):
        error = refusal(connect(server, verify=verify))
        assert "self-signed" in error.message or "issuer" in error.message
        assert "LLM_CONFIG_CA_BUNDLE" in error.hint


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_server_can_log_why_its_certificate_was_refused(serve, stranger, files, family):
    """By sync code; anyio keeps it to itself."""
    server = serve(issuer=stranger)
    with ConfigClient(server.url, verify=files / "ca.pem", transport=family, trust_env=False) as client:
        refusal(client)
    assert server.told.get(timeout=TIMEOUT) == "TLSV1_ALERT_UNKNOWN_CA"


def test_who_asks_for_it_checks_nothing(connect, serve, stranger):
    assert connect(serve("elsewhere", issuer=stranger), verify=False).get_str(*NAME) == "gpt-4"


def test_a_backup_with_a_good_certificate_answers_for_one_with_a_bad_one(connect, serve, stranger, files):
    server, backup = serve(issuer=stranger), serve()
    found = connect(server, verify=files / "ca.pem", backups=[backup.url]).get_config(*NAME)
    assert (found.value, found.endpoint) == ("gpt-4", backup.url)


# --- The client's own -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair", [("client.pem",), ("client.crt", "client.key")], ids=["one file", "two files"]
)
def test_a_server_that_asks_for_a_certificate_gets_it(connect, serve, files, pair):
    paths = tuple(files / name for name in pair)
    cert = paths if len(paths) > 1 else paths[0]
    client = connect(serve(mutual=True), verify=files / "ca.pem", cert=cert)
    assert client.get_str(*NAME) == "gpt-4"
    assert client.set_config(*NAME, "gpt-5").version == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda v: v.name)
def test_who_has_no_certificate_is_told_what_is_missing(connect, serve, server, files, version):
    error = refusal(connect(serve(mutual=True, versions=(version, version)), verify=files / "ca.pem"))
    assert error.details["tls"] in {"client_certificate", "handshake"}
    assert "cert=" in error.hint
    assert len(server.journal) == 0


def test_a_write_that_was_refused_for_want_of_a_certificate_is_told_in_the_same_way(
    connect, serve, server, files
):
    with pytest.raises(ConnectFailedError):
        connect(serve(mutual=True), verify=files / "ca.pem").set_config(*NAME, "gpt-5")
    assert len(server.journal) == 0


def test_a_certificate_that_the_server_does_not_trust_is_told(connect, serve, server, files):
    error = refusal(connect(serve(mutual=True), verify=files / "ca.pem", cert=files / "stranger.pem"))
    assert "the server does not accept this client's certificate" in error.message
    assert len(server.journal) == 0


def test_certificates_may_come_from_the_environment(connect, serve, files, monkeypatch):
    for name, file in (("CA_BUNDLE", "ca.pem"), ("CLIENT_CERT", "client.crt"), ("CLIENT_KEY", "client.key")):
        monkeypatch.setenv(f"LLM_CONFIG_{name}", str(files / file))
    server = serve(mutual=True)
    assert connect(server).get_str(*NAME) == "gpt-4"
    refusal(connect(server, cert=files / "stranger.pem"))


# --- Versions ---------------------------------------------------------------------------------------


def test_a_version_that_is_too_old_is_refused(connect, serve, files, monkeypatch):
    old = serve(versions=(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2))
    assert connect(old, verify=files / "ca.pem").get_str(*NAME) == "gpt-4"
    error = refusal(connect(old, verify=files / "ca.pem", minimum_tls="1.3"))
    assert (error.details["tls"], "minimum_tls" in error.hint) == ("version", True)
    monkeypatch.setenv("LLM_CONFIG_MINIMUM_TLS", "1.3")
    refusal(connect(old, verify=files / "ca.pem"))
    new = serve(versions=(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3))
    assert connect(new, verify=files / "ca.pem").get_str(*NAME) == "gpt-4"


def test_a_port_that_speaks_no_tls_is_told(connect, server, face, clock):
    client = face.client(server.url.replace("http", "https"), clock=clock, resilience=ResiliencePolicy())
    error = refusal(client)
    assert (error.details["tls"], "http://" in error.hint) == ("no_tls", True)


# --- What cannot be used ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"verify": "missing.pem"}, "verify='missing.pem' cannot be read as CA certificates"),
        ({"verify": "rubbish.pem"}, "cannot be read as CA certificates"),
        ({"cert": "missing.pem"}, "cert='missing.pem' cannot be read"),
        ({"cert": "rubbish.pem"}, "cannot be read as a client's certificate"),
        ({"cert": ("client.crt", "missing.key")}, "'missing.key'"),
        ({"cert": ("client.crt", "stranger.key")}, "mismatch"),
        ({"cert": ("client.crt", "sealed.key")}, "another password"),
        ({"cert": ("client.crt", "sealed.key", "wrong")}, "another password"),
        ({"minimum_tls": "1.1"}, "minimum_tls must be '1.2' or '1.3'"),
        ({"verify": ssl.create_default_context(), "minimum_tls": "1.3"}, "set them there"),
        ({"verify": ssl.create_default_context(), "cert": "client.pem"}, "set them there"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_client_is_made(sealed, options, told, monkeypatch):
    monkeypatch.chdir(sealed)
    with ExitStack() as stack, pytest.raises(InvalidRequestError, match=told) as caught:
        Face("sync", stack).client("https://127.0.0.1:9", **options)
    assert "wrong" not in str(caught.value)


@pytest.fixture
def sealed(files):
    """The same files, and the client's key encrypted."""
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  # an extra
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key((files / "client.key").read_bytes(), None)
    shut = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cr3t-canary"))
    (files / "sealed.key").write_bytes(shut)
    (files / "rubbish.pem").write_text("no certificate")
    return files


def test_a_key_may_be_encrypted(connect, serve, sealed, monkeypatch):
    server = serve(mutual=True)
    cert = (sealed / "client.crt", sealed / "sealed.key", "s3cr3t-canary")
    client = connect(server, verify=sealed / "ca.pem", cert=cert)
    assert client.get_str(*NAME) == "gpt-4"
    assert "s3cr3t" not in f"{client.client!r}"
    monkeypatch.setenv("LLM_CONFIG_CLIENT_CERT", str(cert[0]))
    monkeypatch.setenv("LLM_CONFIG_CLIENT_KEY", str(cert[1]))
    monkeypatch.setenv("LLM_CONFIG_CLIENT_KEY_PASSWORD", cert[2])
    assert connect(server, verify=sealed / "ca.pem").get_str(*NAME) == "gpt-4"


def test_no_context_is_made_that_nobody_asked_for():
    assert ssl_context(verify=True) is True
    assert ssl_context(verify=False) is False
    given = ssl.create_default_context()
    assert ssl_context(given) is given


def test_doctor_shows_the_clients_own_certificate_too(serve, files, server, monkeypatch):
    for name, value in (("CA_BUNDLE", "ca.pem"), ("CLIENT_CERT", "client.crt"), ("CLIENT_KEY", "client.key")):
        monkeypatch.setenv(f"LLM_CONFIG_{name}", str(files / value))
    words = ["doctor", "--base-url", serve(mutual=True).url, "--token", server.token("admin"), "--json"]
    ended = CliRunner().invoke(app, words)
    findings = json.loads(ended.stdout)["endpoints"][0]["findings"]
    tls = next(finding for finding in findings if finding["check"] == "tls")
    assert (ended.exit_code, tls["standing"]) == (0, "ok")
