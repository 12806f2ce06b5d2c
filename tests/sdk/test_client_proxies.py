"""Proxies that the environment names: a real one on loopback, forwarding and tunnelling."""

import socket
import socketserver
import threading
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from llm_config_mock_server import MockServer
from llm_config_sdk import ConnectFailedError, InvalidRequestError, RequestTimeoutError, ResiliencePolicy
from llm_config_sdk.transport import Endpoint
from llm_config_sdk.transport.proxies import Proxy, proxy_for

NAMESPACE = "app/llm"
TIMEOUT = 30
ONCE = ResiliencePolicy(retry=None)


class Handler(socketserver.StreamRequestHandler):
    """One connection: a tunnel, or one request passed on."""

    timeout = TIMEOUT

    def handle(self):
        lines = []
        while line := self.rfile.readline().rstrip(b"\r\n"):
            lines.append(line.decode("latin-1"))
        if not lines:
            return
        method, target, _ = lines[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        self.server.seen.append((method, target, headers.get("proxy-authorization")))
        if self.server.ends is not None:
            self.server.ends(self.connection)
            return
        if self.server.refuses:
            self.wfile.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port)), TIMEOUT) as upstream:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self.relay(upstream)
            return
        url = urlsplit(target)
        body = self.rfile.read(int(headers.get("content-length", 0)))
        path = f"{url.path}?{url.query}" if url.query else url.path
        kept = [line for line in lines[1:] if not line.lower().startswith(("proxy-", "connection:"))]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""])
        with socket.create_connection((url.hostname, url.port), TIMEOUT) as upstream:
            upstream.sendall(head.encode("latin-1") + body)
            while chunk := upstream.recv(65_536):
                self.wfile.write(chunk)

    def relay(self, upstream):
        def back():
            with suppress(OSError):
                while chunk := upstream.recv(65_536):
                    self.connection.sendall(chunk)
                self.connection.shutdown(socket.SHUT_WR)

        returning = threading.Thread(target=back, daemon=True)
        returning.start()
        with suppress(OSError):
            while chunk := self.connection.recv(65_536):
                upstream.sendall(chunk)
            upstream.shutdown(socket.SHUT_WR)
        returning.join(TIMEOUT)


class ProxyServer(socketserver.ThreadingTCPServer):
    """A proxy that remembers what it was asked."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.refuses = False
        self.ends = None  # what it does in place of an answer

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


@pytest.fixture
def proxy():
    with ProxyServer() as running:
        serving = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield running
        running.shutdown()
        serving.join(TIMEOUT)


@pytest.fixture
def tls_server():
    with MockServer(seed=1, tls=True) as running:
        running.put(NAMESPACE, "model", "gpt-4", env="production")
        yield running


@pytest.fixture
def connect(face, clock):
    def connecting(server, **options):
        given = {"token": server.token("admin"), "environment": "production", "clock": clock, "cache": None}
        return face.client(server.url, **{**given, **options})

    return connecting


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_plain_requests_are_forwarded(connect, server, proxy, environment, family):
    environment("HTTP_PROXY", proxy.url)
    client = connect(server, transport=family)
    assert client.set_config(NAMESPACE, "model", "gpt-4").version == 1
    assert client.get_str(NAMESPACE, "model") == "gpt-4"
    assert [method for method, _, _ in proxy.seen] == ["POST", "GET"]
    assert all(
        target.startswith(f"{server.url}/api/v1/configs/app%2Fllm/model") for _, target, _ in proxy.seen
    )


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_requests_by_tls_go_through_a_tunnel_that_is_kept(connect, tls_server, proxy, environment, family):
    environment("HTTPS_PROXY", proxy.url)
    client = connect(tls_server, transport=family, verify=tls_server.ssl_context)
    assert [client.get_str(NAMESPACE, "model") for _ in range(3)] == ["gpt-4"] * 3
    assert [(method, target) for method, target, _ in proxy.seen] == [
        ("CONNECT", f"127.0.0.1:{tls_server.port}")
    ]
    client.close()


def test_all_proxy_serves_every_scheme(connect, server, proxy, environment):
    environment("ALL_PROXY", proxy.url)
    connect(server).list_configs(NAMESPACE)
    assert len(proxy.seen) == 1


@pytest.mark.parametrize("names", ["*", "127.0.0.1", "example.com, 127.0.0.1"])
def test_no_proxy_leads_past_it(connect, server, proxy, environment, names):
    environment("HTTP_PROXY", proxy.url)
    environment("NO_PROXY", names)
    connect(server).list_configs(NAMESPACE)
    assert (proxy.seen, len(server.journal)) == ([], 1)


def test_the_environment_is_not_asked_where_it_is_not_trusted(connect, server, proxy, environment):
    environment("HTTP_PROXY", proxy.url)
    connect(server, trust_env=False).list_configs(NAMESPACE)
    assert (proxy.seen, len(server.journal)) == ([], 1)


def test_a_proxys_user_and_password_go_to_the_proxy_alone(connect, server, proxy, environment):
    environment("HTTP_PROXY", proxy.url.replace("//", "//ann:s3cr3t%40canary@"))
    client = connect(server)
    client.list_configs(NAMESPACE)
    assert [auth for _, _, auth in proxy.seen] == ["basic yw5uonmzy3izdebjyw5hcnk="]
    assert server.journal[0].request.header("proxy-authorization") is None
    assert (
        "s3cr3t"
        not in f"{client.client!r}{proxy_for(Endpoint.parse(server.url), {'all': 'http://a:s3cr3t@b'})!r}"
    )


def test_a_proxy_that_refuses_is_told(connect, tls_server, proxy, environment):
    environment("HTTPS_PROXY", proxy.url)
    proxy.refuses = True
    with pytest.raises(ConnectFailedError, match="through the proxy: 407") as caught:
        connect(tls_server, resilience=ONCE).list_configs(NAMESPACE)
    assert caught.value.never_sent


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 Connection est", b"220 mail.example ESMTP\r\n"])
def test_a_proxy_that_breaks_off_is_told(connect, tls_server, proxy, environment, said):
    environment("HTTPS_PROXY", proxy.url)
    proxy.ends = lambda connection: connection.sendall(said)
    with pytest.raises(ConnectFailedError, match="connecting through the proxy") as caught:
        connect(tls_server, resilience=ONCE).list_configs(NAMESPACE)
    assert caught.value.never_sent


def test_where_a_proxy_is_late_nothing_was_sent(connect, tls_server, proxy, environment):
    environment("HTTPS_PROXY", proxy.url)
    proxy.ends = lambda connection: connection.recv(1)  # which comes when the client has left
    with pytest.raises(RequestTimeoutError, match="timed out while connecting") as caught:
        connect(tls_server, resilience=ONCE, timeout=0.3).list_configs(NAMESPACE)
    assert caught.value.never_sent


def test_a_proxy_that_is_not_there_is_told(connect, server, environment):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environment("HTTP_PROXY", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ConnectFailedError, match="Connection refused"):
            connect(server, resilience=ONCE).list_configs(NAMESPACE)


@pytest.mark.parametrize(
    "url", ["socks5://ann:s3cr3t@127.0.0.1:1080", "http://", "http://[s3cr3t", "http://s3cr3t:port"]
)
def test_a_proxy_that_cannot_be_used_is_refused_and_not_shown(connect, server, environment, url):
    environment("ALL_PROXY", url)
    with pytest.raises(InvalidRequestError, match="proxy for http:// cannot be used") as caught:
        connect(server).list_configs(NAMESPACE)
    assert "s3cr3t" not in f"{caught.value}"
    server.journal.assert_count(0)


@pytest.mark.parametrize(
    ("environment", "url", "found"),
    [
        ({}, "http://a.example", None),
        ({"http": "http://p:8080"}, "http://a.example", Proxy("http://p:8080", None, is_tls=False)),
        ({"http": "http://p:8080"}, "https://a.example", None),
        ({"all": "https://p"}, "https://a.example", Proxy("https://p:443", None, is_tls=True)),
        ({"http": "http://[::1]:3128"}, "http://a.example", Proxy("http://[::1]:3128", None, is_tls=False)),
        ({"http": "p"}, "http://a.example", Proxy("http://p:80", None, is_tls=False)),
        ({"http": "p", "no": ".example"}, "http://a.example", None),
        ({"http": "p", "no": "a.example:81"}, "http://a.example:81", None),
        ({"http": "p", "no": "::1"}, "http://[::1]:81", None),
    ],
)
def test_the_environment_names_a_proxy_by_scheme(environment, url, found):
    assert proxy_for(Endpoint.parse(url), environment) == found
