"""The profile `upstream-0.5`, fact by fact, over a real socket: bytes in, bytes out."""

# ruff: noqa: E501 - in the tables, what is sent and what is said stand side by side

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given, settings, strategies as st

from llm_config_mock_server import At, Limits, MockServer, error
from llm_config_mock_server.core import Core, Options, Platform
from llm_config_mock_server.messages import Outcome, Request
from llm_config_mock_server.profiles import load_profile
from llm_config_mock_server.profiles.upstream_0_5.gate import Gate
from llm_config_mock_server.profiles.upstream_0_5.set_body import read_set_body
from llm_config_mock_server.profiles.upstream_0_5.words import RefusedError
from llm_config_mock_server.randomness import Randomness
from llm_config_mock_server.storage import MemoryStorage

TIMEOUT = 30.0  # seconds: a hang ends as a failure, a busy machine does not
ITEM = "/api/v1/configs/app%2Fllm/model"
TLS = "X-Forwarded-Proto: https"
JSON = "Content-Type: application/json"
POLICY = "Request rejected due to security policy"
LIMITED = "Rate limit exceeded. Please try again later"


@dataclass
class Answer:
    """A reply, read off the wire."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def json(self) -> object:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> At:
        return At(1_705_314_600_123_456_789, self.seconds)


Ask = Callable[..., Answer]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[MockServer]:
    with MockServer("upstream-0.5", seed=7, limits=False, clock=clock) as running:
        yield running


@pytest.fixture
def asking() -> Iterator[Callable[[MockServer], Ask]]:
    """Makes a function that sends one request to a server, each over a connection of its own."""
    with ExitStack() as stack:

        def of(server: MockServer) -> Ask:
            def ask(
                target: str, *headers: str, method: str = "GET", body: bytes = b"", tls: bool = True
            ) -> Answer:
                sent = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))
                lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close", *headers]
                lines += [TLS] if tls else []
                lines += [f"Content-Length: {len(body)}"] if body else []
                sent.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)
                received = b""
                while chunk := sent.recv(65_536):
                    received += chunk
                head, _, rest = received.partition(b"\r\n\r\n")
                line, *pairs = head.decode("latin-1").split("\r\n")
                return Answer(line, dict(pair.lower().split(": ", 1) for pair in pairs), rest)

            return ask

        yield of


@pytest.fixture
def ask(server: MockServer, asking: Callable[[MockServer], Ask]) -> Ask:
    return asking(server)


def put(ask: Ask, value: object, *, path: str = ITEM, **fields: object) -> dict:
    body = json.dumps({"value": value, "env": "dev", **fields}).encode()
    answer = ask(path, JSON, method="POST", body=body)
    assert answer.status == 200, answer.body
    return answer.json


def said(status: int, reason: str, message: str) -> bytes:
    """The exact bytes of a JSON error."""
    return b'{"error":%s,"message":%s}' % (json.dumps(reason).encode(), json.dumps(message).encode())


# --- Section 2 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header", [None, "X-Forwarded-Proto: http", "X-Forwarded-Proto: HTTPS", "X-Forwarded-Proto: https, http"]
)
def test_1_without_the_exact_header_every_route_asks_for_tls(ask, header):
    for path in (ITEM, f"{ITEM}/history", "/api/v1/configs/app"):
        answer = ask(path, *([header] if header else []), tls=False)
        assert answer.body == said(426, "Upgrade Required", "Insecure protocol: TLS is required")
        assert answer.line == "HTTP/1.1 426 Upgrade Required"
    assert ask("/health", tls=False).status == 200
    assert ask("/nowhere", tls=False).status == 404


def test_2_a_query_holds_one_parameter(ask):
    answer = ask(f"{ITEM}?env=dev&with_overrides=true")
    assert answer.body == said(400, "Bad Request", POLICY)
    assert ask(f"{ITEM}?env=dev").status == 404


def test_2_overrides_are_read_and_ignored(ask):
    put(ask, 1, env="base")
    assert ask(f"{ITEM}?with_overrides=true").status == 404
    for path in (ITEM, f"{ITEM}/history", "/api/v1/configs/app"):
        answer = ask(f"{path}?with_overrides=yes")
        assert (answer.status, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
        assert answer.body == b"Failed to deserialize query string: provided string was not `true` or `false`"
    assert ask(f"{ITEM}/rollback/1?with_overrides=yes", method="POST").status == 404, (
        "rollback has `env` alone"
    )


def test_3_a_namespace_is_one_segment(ask):
    put(ask, 1)
    assert ask(ITEM).json["namespace"] == "app/llm"
    assert ask("/api/v1/configs/app/llm/model").status == 404
    assert ask("/api/v1/configs/app/llm/model").body == b""
    assert ask("/api/v1/configs/app/llm").json["message"] == "Configuration not found: app:llm", (
        "another route"
    )


@pytest.mark.parametrize("path", ["/api/v1/configs//k", "/api/v1/configs//k/history"])
def test_4_empty_names_are_accepted(ask, path):
    put(ask, "x", path="/api/v1/configs//k")
    assert ask(path).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v1",
        "/api/v1/configs",
        "/api/v1/configs/",
        "/api/v1/configs/app/",
        f"{ITEM}/",
        f"{ITEM}/rollback",
        f"{ITEM}/rollback/",
        "/health/",
        "/api/v1/health",
        "/API/v1/configs/app",
    ],
)
def test_6_no_route_is_an_empty_404(ask, path):
    answer = ask(path, tls=False)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (404, b"", "0")
    assert "content-type" not in answer.headers


@pytest.mark.parametrize("path", ["/api/v1/configs/ns/history", "/api/v1/configs/ns/rollback"])
def test_6_a_word_of_a_route_can_be_a_key(ask, path):
    assert ask(path).json["message"].startswith("Configuration not found: ns:")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("StorageFull", "Storage error: IO error: No space left on device (os error 28)"),
        ("QuotaExceeded", "Storage error: IO error: Disk quota exceeded (os error 122)"),
        ("ReadOnlyFilesystem", "Storage error: IO error: Read-only file system (os error 30)"),
        ("PermissionDenied", "Storage error: IO error: Permission denied (os error 13)"),
        ("OutOfMemory", "Storage error: IO error: Cannot allocate memory (os error 12)"),
        ("TooManyOpenFiles", "Storage error: IO error: Too many open files (os error 24)"),
        ("InputOutput", "Storage error: IO error: Input/output error (os error 5)"),
        ("InvalidFilename", "Storage error: IO error: File name too long (os error 36)"),
        ("unavailable", "Storage error: IO error: temporarily unavailable"),
    ],
)
def test_8_every_error_of_the_core_is_a_500_with_a_prefix(server, ask, condition, message):
    server.conditions["store"] = condition
    for answer in (ask(ITEM), ask(f"{ITEM}/history"), ask(ITEM, method="DELETE")):
        assert answer.body == said(500, "Internal Server Error", message)


def test_8_crypto_fails_with_its_prefix(server, ask):
    put(ask, "s3cr3t", secret=True)
    server._core.platform.vault.remove_key(1)
    server._core.platform.vault.add_key()
    server._core.platform.vault.remove_key(2)
    assert ask(ITEM).json["message"] == "Crypto error: Decryption failed: no key of version 1"
    server._core.platform.vault.add_key()
    server._core.platform.vault.add_key()
    server._core.platform.vault.remove_key(None)  # the other one stays, and seals nothing
    answer = ask(ITEM, JSON, method="POST", body=b'{"value":"s","env":"dev","secret":true}')
    assert answer.json["message"] == "Crypto error: Encryption failed: no active key"


def test_8_a_record_that_is_none_is_a_500(asking):
    storage = MemoryStorage()
    with MockServer("upstream-0.5", limits=False, storage=storage) as server:
        server.put("app/llm", "model", 1)
        storage.write(next(iter(storage.addresses())), b"nonsense", snapshot=False)
        answer = asking(server)(ITEM)
        assert answer.status == 500
        assert answer.json["message"].startswith("Storage error: Serialization error: ")


@pytest.mark.parametrize(
    ("step", "body"),
    [
        (error("STORAGE_ERROR", message="gone"), said(500, "Internal Server Error", "Storage error: gone")),
        (error("ENCRYPTION_ERROR"), said(500, "Internal Server Error", "Crypto error: Encryption failed")),
        (
            error("DECRYPTION_ERROR", message="no key"),
            said(500, "Internal Server Error", "Crypto error: Decryption failed: no key"),
        ),
        (error("NOT_FOUND", message="gone"), said(404, "Not Found", "gone")),
    ],
)
def test_8_a_scripted_error_is_said_in_this_servers_words(server, ask, step, body):
    server.script("*", step)
    assert ask(ITEM).body == body


def test_7_a_scripted_limit_has_a_retry_after_only_if_asked(server, ask):
    server.script("*", [error("RATE_LIMIT_EXCEEDED"), error("RATE_LIMIT_EXCEEDED", retry_after=2)])
    assert [ask(ITEM).headers.get("retry-after") for _ in range(2)] == [None, "2"]


def test_8_a_server_that_is_away_is_a_page_of_the_proxy(server, ask):
    server.conditions["service"] = "unavailable"
    for path in (ITEM, "/health"):
        answer = ask(path)
        assert (answer.line, answer.headers["content-type"]) == (
            "HTTP/1.1 503 Service Unavailable",
            "text/html",
        )
        assert answer.body.startswith(b"<html>")


def test_9_replies_carry_nothing_that_a_client_could_rely_on(ask):
    put(ask, 1)
    found, absent = ask(ITEM), ask(f"{ITEM}2")
    for answer in (found, absent):
        assert answer.headers.keys().isdisjoint(
            {"etag", "retry-after", "x-request-id", "x-ratelimit-limit", "www-authenticate"}
        )
    assert absent.json.keys() == {"error", "message"}
    assert found.json.keys() == {"id", "namespace", "key", "value", "environment", "version", "metadata"}


def test_10_a_secret_is_plain_while_its_record_lives(ask):
    assert put(ask, "s3cr3t", secret=True)["value"] == "<encrypted>"
    assert ask(ITEM).json["value"] == "s3cr3t"
    assert ask("/api/v1/configs/app%2Fllm").json[0]["value"] == "s3cr3t"


def test_10_a_secret_is_ciphertext_in_history_in_a_rollback_and_ever_after(ask):
    put(ask, "s3cr3t", secret=True)
    sealed = ask(f"{ITEM}/history").json[0]["value"]
    assert set(sealed) == {"algorithm", "nonce", "ciphertext", "key_version"}
    assert (sealed["algorithm"], sealed["key_version"]) == ("aes-256-gcm", 1)
    assert re.fullmatch("[0-9a-f]{24}", sealed["nonce"])
    assert re.fullmatch("[0-9a-f]+", sealed["ciphertext"])
    assert len(sealed["ciphertext"]) == 2 * (len("s3cr3t") + 16)
    assert ask(f"{ITEM}/rollback/1", method="POST").json["value"] == sealed
    assert ask(ITEM).json["value"] == sealed
    assert ask("/api/v1/configs/app%2Fllm").json[0]["value"] == sealed


def test_10_a_restart_of_the_process_seals_secrets_and_an_outage_does_not(server, asking):
    storage = MemoryStorage()
    with MockServer("upstream-0.5", limits=False, storage=storage, seed=7) as first:
        ask = asking(first)
        put(ask, "s3cr3t", secret=True)
        first.stop()
        first.start()
        assert ask(ITEM).json["value"] == "s3cr3t"
    with MockServer("upstream-0.5", limits=False, storage=storage, seed=7) as second:
        assert asking(second)(ITEM).json["value"]["algorithm"] == "aes-256-gcm"


def test_10_a_secret_put_by_the_test_itself_is_as_one_that_was_posted(server, ask):
    shown = server.put("app/llm", "model", "s3cr3t", secret=True)
    assert "secret" not in shown
    assert ask(ITEM).json["value"] == "s3cr3t"


def test_10_without_a_key_a_secret_is_a_500_and_its_type_comes_first(asking):
    with MockServer("upstream-0.5", limits=False, encryption_key=None) as keyless:
        ask = asking(keyless)
        answer = ask(ITEM, JSON, method="POST", body=b'{"value":"s","env":"dev","secret":true}')
        assert answer.body == said(
            500, "Internal Server Error", "Validation error: Encryption key not configured"
        )
        answer = ask(ITEM, JSON, method="POST", body=b'{"value":5,"env":"dev","secret":true}')
        assert answer.body == said(400, "Bad Request", "Secret value must be a string")


def test_11_every_set_and_rollback_makes_a_version_whatever_the_headers_say(ask):
    body = b'{"value":1,"env":"dev"}'
    for version in (1, 2):
        answer = ask(ITEM, JSON, "Idempotency-Key: k", 'If-Match: "other"', method="POST", body=body)
        assert answer.json["version"] == version
    assert ask(f"{ITEM}/rollback/1", "Idempotency-Key: k", method="POST").json["version"] == 3
    assert ask(f"{ITEM}/rollback/1", "Idempotency-Key: k", method="POST").json["version"] == 4


def test_11_a_500_may_have_taken_effect(server, ask):
    server.script("POST", error("STORAGE_ERROR", message="disk").after_effect())
    answer = ask(ITEM, JSON, method="POST", body=b'{"value":1,"env":"dev"}')
    assert answer.body == said(500, "Internal Server Error", "Storage error: disk")
    assert ask(ITEM).json["version"] == 1


def test_12_an_update_keeps_id_and_creation(ask, clock):
    first = put(ask, 1, user="ann")
    second = put(ask, 2)
    assert (second["id"], second["version"]) == (first["id"], 2)
    assert second["metadata"]["created_by"] == "ann"
    assert second["metadata"]["updated_by"] == "api-user"
    assert second["metadata"]["created_at"] == "2024-01-15T10:30:00.123456789+00:00"
    assert (second["metadata"]["tags"], second["metadata"]["description"]) == ([], None)


def test_12_a_rollback_writes_a_new_entry_by_the_system(ask):
    first = put(ask, "one", user="ann")
    put(ask, "two")
    rolled = ask(f"{ITEM}/rollback/1", method="POST").json
    assert (rolled["value"], rolled["version"]) == ("one", 3)
    assert rolled["id"] != first["id"]
    assert {rolled["metadata"][name] for name in ("created_by", "updated_by")} == {"system"}
    assert [
        (item["version"], item["created_by"], item["change_description"])
        for item in ask(f"{ITEM}/history").json
    ] == [
        (3, "system", "Rollback to version 1"),
        (2, "api-user", "Configuration updated"),
        (1, "ann", "Configuration updated"),
    ]


def test_12_a_delete_keeps_history_and_versions_begin_anew(ask):
    first = put(ask, "old")
    put(ask, "older")
    assert ask(ITEM, method="DELETE").status == 204
    assert len(ask(f"{ITEM}/history").json) == 2
    again = put(ask, "new")
    assert again["version"] == 1
    assert again["id"] != first["id"]
    assert ask(f"{ITEM}/rollback/1", method="POST").json["value"] == "new", "of two versions 1 the newest"
    assert ask(ITEM).json["version"] == 3, "above the highest there ever was"


def test_12_a_rollback_brings_back_what_was_deleted(ask):
    put(ask, "old")
    ask(ITEM, method="DELETE")
    assert ask(f"{ITEM}/rollback/1", method="POST").json["version"] == 2
    assert ask(ITEM).json["value"] == "old"


def test_12_what_is_unknown_has_an_empty_list_and_history_and_no_version(ask):
    assert ask("/api/v1/configs/nobody").json == []
    assert ask(f"{ITEM}/history").json == []
    assert ask(f"{ITEM}/rollback/7", method="POST").body == said(404, "Not Found", "Version 7 not found")
    put(ask, 1)
    assert ask(f"{ITEM}/rollback/7", method="POST").body == said(404, "Not Found", "Version 7 not found")


def test_12_a_list_also_shows_what_begins_with_the_namespace_and_two_colons(ask):
    for namespace in ("a", "a::b", "ab", "a:c"):
        put(ask, 1, path=f"/api/v1/configs/{namespace}/k")
    assert {entry["namespace"] for entry in ask("/api/v1/configs/a").json} == {"a", "a::b"}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("null", ""),
        ('[null, {"a": null}]', ["", {"a": ""}]),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 9.223372036854775808e18),
        ("-9223372036854775809", -9.223372036854775809e18),
        ("18446744073709551616", 1.8446744073709552e19),
        ("1.0", 1.0),
        ("true", True),
        ('"\\u00e9\\ud83d\\ude00"', "é\U0001f600"),
    ],
)
def test_13_values_come_back_as_the_servers_types_keep_them(ask, sent, kept):
    answer = ask(ITEM, JSON, method="POST", body=f'{{"value":{sent},"env":"dev"}}'.encode())
    for shown in (answer.json["value"], ask(ITEM).json["value"], ask(f"{ITEM}/history").json[0]["value"]):
        assert shown == kept
        assert type(shown) is type(kept)


def test_13_the_order_of_keys_is_not_kept(ask):
    put(ask, {"z": 1, "a": 2})
    assert b'"value":{"a":2,"z":1}' in ask(ITEM).body


def test_14_messages_are_word_for_word(ask):
    assert ask(ITEM).body == said(404, "Not Found", "Configuration not found: app/llm:model")
    assert ask(ITEM, method="DELETE").body == said(404, "Not Found", "Configuration not found: app/llm:model")
    assert ask(f"{ITEM}?env=Mars").body == said(400, "Bad Request", "Unknown environment: Mars")
    assert ask(f"{ITEM}?env=").body == said(400, "Bad Request", "Unknown environment: ")
    answer = ask(ITEM, JSON, method="POST", body=b'{"value":1,"env":"Mars"}')
    assert answer.body == said(400, "Bad Request", "Unknown environment: Mars")


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("DEV", "development"),
        ("Stage", "staging"),
        ("prod", "production"),
        ("edge", "edge"),
        ("Base", "base"),
    ],
)
def test_14_environments_have_aliases_and_development_is_the_default(ask, name, canonical):
    assert put(ask, 1, env=name)["environment"] == canonical
    assert ask(f"{ITEM}?env={name}").json["environment"] == canonical
    assert (ask(ITEM).status == 200) is (canonical == "development")


# --- Section 2a: order ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/health", ITEM, "/nowhere", "/api/v1/configs/a--b/k"])
def test_options_is_answered_before_everything(ask, target):
    answer = ask(target, method="OPTIONS", tls=False)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["access-control-allow-methods"] == "*"
    assert answer.headers["access-control-allow-headers"] == "*"


ORDER = [
    # what is wrong at once: the earlier check is the one that speaks
    ("no route before TLS", "/nowhere--", "GET", False, b"", (), 404),
    ("TLS before the validator", "/api/v1/configs/a--b/k", "GET", False, b"", (), 426),
    ("the validator before the method", "/api/v1/configs/a--b/k", "PUT", True, b"", (), 400),
    ("the path before the query", f"/api/v1/configs/{'a' * 1000}/k?a&b", "GET", True, b"", (), 400),
    ("the method before the path's encoding", "/api/v1/configs/%FF/k", "PUT", True, b"", (), 405),
    ("the path's encoding before the query", "/api/v1/configs/%FF/k?env=mars", "GET", True, b"", (), 400),
    ("the path's encoding before the content type", "/api/v1/configs/%FF/k", "POST", True, b"{", (), 400),
    ("the content type before the body", ITEM, "POST", True, b"{", (), 415),
    ("the body before the environment", ITEM, "POST", True, b'{"env":"mars"}', (JSON,), 422),
    ("the environment before the value", ITEM, "POST", True, b'{"value":1,"env":"mars","secret":true}', (JSON,), 400),
    ("a version before the environment", f"{ITEM}/rollback/x?env=mars", "POST", True, b"", (), 400),
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "method", "tls", "body", "headers", "status"),
    [row[1:] for row in ORDER],
    ids=[row[0] for row in ORDER],
)
def test_checks_come_in_their_order(ask, target, method, tls, body, headers, status):  # noqa: PLR0917 - a row
    assert ask(target, *headers, method=method, body=body, tls=tls).status == status


def test_which_check_spoke_is_told_by_its_words(ask):
    assert b"Invalid UTF-8 in `namespace`" in ask("/api/v1/configs/%FF/%FF?env=mars").body
    assert b"maximum length" in ask(f"/api/v1/configs/{'a' * 1000}/k?a&b").body
    assert ask(f"{ITEM}/rollback/x?env=mars", method="POST").headers["content-type"].startswith("text/plain")
    assert (
        b"Unknown environment"
        in ask(ITEM, JSON, method="POST", body=b'{"value":1,"env":"mars","secret":true}').body
    )


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        (ITEM, "GET,HEAD,POST,DELETE"),
        ("/api/v1/configs/app", "GET,HEAD"),
        (f"{ITEM}/history", "GET,HEAD"),
        ("/health", "GET,HEAD"),
        (f"{ITEM}/rollback/1", "POST"),
    ],
)
def test_a_method_that_is_not_there_is_an_empty_405(ask, path, allow):
    answer = ask(path, method="PATCH")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (405, b"", "0")
    assert answer.headers["allow"].upper() == allow


def test_a_head_of_a_rollback_is_not_allowed_and_elsewhere_it_is_a_get_without_body(ask):
    put(ask, 1)
    assert ask(f"{ITEM}/rollback/1", method="HEAD").status == 405
    read, looked = ask(ITEM), ask(ITEM, method="HEAD")
    assert (looked.status, looked.body) == (200, b"")
    assert looked.headers["content-length"] == str(len(read.body))


def test_cors_headers_and_a_date_are_on_every_reply(server, ask):
    put(ask, 1)
    for answer in (
        ask(ITEM), ask("/nowhere"), ask(ITEM, tls=False), ask(ITEM, method="PATCH"), ask("/health"),
        ask(ITEM, method="POST"), ask(ITEM, method="DELETE"),
    ):  # fmt: skip
        assert answer.headers["access-control-allow-origin"] == "*"
        assert (
            answer.headers["vary"] == "origin, access-control-request-method, access-control-request-headers"
        )
        assert answer.headers["date"].endswith("gmt")
    assert "content-length" not in ask(put(ask, 1) and ITEM, method="DELETE").headers


def test_health_is_at_the_root(ask):
    assert ask("/health").json == {"status": "healthy", "service": "llm-config-manager", "version": "0.5.0"}


# --- Section 2a: text errors ----------------------------------------------------------------------

SYNTAX = "Failed to parse the request body as JSON: "
SHAPE = "Failed to deserialize the JSON body into the target type: "


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/api/v1/configs/%FF/k", "Invalid URL: Invalid UTF-8 in `namespace`"),
        ("/api/v1/configs/a/%C3", "Invalid URL: Invalid UTF-8 in `key`"),
        ("/api/v1/configs/%FF", "Invalid URL: Invalid UTF-8 in `namespace`"),
        ("/api/v1/configs/a/k/rollback/%FF", "Invalid URL: Invalid UTF-8 in `version`"),
        (
            "/api/v1/configs/a/k/rollback/abc",
            'Invalid URL: Cannot parse value at index 2 with value `"abc"` to a `u64`',
        ),
        (
            "/api/v1/configs/a/k/rollback/-1",
            'Invalid URL: Cannot parse value at index 2 with value `"-1"` to a `u64`',
        ),
        (
            "/api/v1/configs/a/k/rollback/18446744073709551616",
            'Invalid URL: Cannot parse value at index 2 with value `"18446744073709551616"` to a `u64`',
        ),
    ],
)
def test_a_path_that_cannot_be_read_is_said_in_plain_text(ask, target, message):
    answer = ask(target, method="POST" if "rollback" in target else "GET")
    assert (answer.status, answer.body) == (400, message.encode())
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/jsonp", "application/x-www-form-urlencoded", "json"]
)
def test_a_body_of_another_type_is_refused_before_it_is_read(ask, content_type):
    headers = [] if content_type is None else [f"Content-Type: {content_type}"]
    answer = ask(ITEM, *headers, method="POST", body=b'{"value":1,"env":"dev"}')
    assert answer.line == "HTTP/1.1 415 Unsupported Media Type"
    assert answer.body == b"Expected request with `Content-Type: application/json`"


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"]
)
def test_any_json_type_is_read(ask, content_type):
    answer = ask(ITEM, f"Content-Type: {content_type}", method="POST", body=b'{"value":1,"env":"dev"}')
    assert answer.status == 200


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, f"{SYNTAX}EOF while parsing a value at line 1 column 0"),
        (b"{", 400, f"{SYNTAX}EOF while parsing an object at line 1 column 1"),
        (b'{"value":1,', 400, f"{SYNTAX}EOF while parsing a value at line 1 column 11"),
        (b'{"value":1,}', 400, f"{SYNTAX}trailing comma at line 1 column 12"),
        (b'{"value":1 "env":2}', 400, f"{SYNTAX}expected `,` or `}}` at line 1 column 12"),
        (b"{5:1}", 400, f"{SYNTAX}key must be a string at line 1 column 2"),
        (b"nonsense", 400, f"{SYNTAX}expected ident at line 1 column 2"),
        (b'{\n"env" 5}', 400, f"{SYNTAX}env: expected `:` at line 2 column 7"),
        (b'{"value":NaN}', 400, f"{SYNTAX}value: expected value at line 1 column 10"),
        (b'{"value":01}', 400, f"{SYNTAX}value: invalid number at line 1 column 11"),
        (b'{"value":1.}', 400, f"{SYNTAX}value: invalid number at line 1 column 12"),
        (b'{"value":1e', 400, f"{SYNTAX}value: EOF while parsing a value at line 1 column 11"),
        (b'{"value":-', 400, f"{SYNTAX}value: EOF while parsing a value at line 1 column 10"),
        (b'{"value":1e999}', 400, f"{SYNTAX}value: number out of range at line 1 column 14"),
        (b'{"value":[1,]}', 400, f"{SYNTAX}value: trailing comma at line 1 column 13"),
        (b'{"value":[1 2]}', 400, f"{SYNTAX}value: expected `,` or `]` at line 1 column 13"),
        (b'{"value":{"a":[0,tru]}}', 400, f"{SYNTAX}value.a[1]: expected ident at line 1 column 21"),
        (b'{"value":"a', 400, f"{SYNTAX}value: EOF while parsing a string at line 1 column 11"),
        (b'{"value":"\\q"}', 400, f"{SYNTAX}value: invalid escape at line 1 column 12"),
        (b'{"value":"\\u12G4"}', 400, f"{SYNTAX}value: invalid escape at line 1 column 16"),
        (b'{"value":"\\ud800"}', 400, f"{SYNTAX}value: unexpected end of hex escape at line 1 column 17"),
        (b'{"value":"\\udc00"}', 400, f"{SYNTAX}value: lone leading surrogate in hex escape at line 1 column 16"),
        (b'{"value":"\xff"}', 400, f"{SYNTAX}value: invalid unicode code point at line 1 column 12"),
        (b'{"value":"\n"}', 400, f"{SYNTAX}value: control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0"),
        (b'{"other":[}', 400, f"{SYNTAX}other: expected value at line 1 column 11"),
        (b'{"value": 1}', 422, f"{SHAPE}missing field `env` at line 1 column 12"),
        (b'{\n  "env": "dev"\n}', 422, f"{SHAPE}missing field `value` at line 3 column 1"),
        (b"{}", 422, f"{SHAPE}missing field `value` at line 1 column 2"),
        (b'{"value":1,"env":5}', 422, f"{SHAPE}env: invalid type: integer `5`, expected a string at line 1 column 18"),
        (b'{"value":1,"env":-1.5}', 422, f"{SHAPE}env: invalid type: floating point `-1.5`, expected a string at line 1 column 21"),
        (b'{"value":1,"env":1e21}', 422, f"{SHAPE}env: invalid type: floating point `1e21`, expected a string at line 1 column 21"),
        (b'{"value":1,"env":null}', 422, f"{SHAPE}env: invalid type: null, expected a string at line 1 column 21"),
        (b'{"env":{}}', 422, f"{SHAPE}env: invalid type: map, expected a string at line 1 column 7"),
        (b'{"env":[]}', 422, f"{SHAPE}env: invalid type: sequence, expected a string at line 1 column 7"),
        (b'{"user":true}', 422, f"{SHAPE}user: invalid type: boolean `true`, expected a string at line 1 column 12"),
        (b'{"secret":"y\\"s"}', 422, f'{SHAPE}secret: invalid type: string "y\\"s", expected a boolean at line 1 column 16'),
        (b'{"env":"a","env":"b"}', 422, f"{SHAPE}duplicate field `env` at line 1 column 16"),
        (b"5", 422, f"{SHAPE}invalid type: integer `5`, expected struct SetConfigRequest at line 1 column 1"),
        (b"[]", 422, f"{SHAPE}invalid length 0, expected struct SetConfigRequest with 4 elements at line 1 column 2"),
        (b'["x"]', 422, f"{SHAPE}invalid length 1, expected struct SetConfigRequest with 4 elements at line 1 column 5"),
        (b'["x",5]', 422, f"{SHAPE}[1]: invalid type: integer `5`, expected a string at line 1 column 6"),
        (b'["x","dev","u",false,1]', 400, f"{SYNTAX}trailing characters at line 1 column 22"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_read_is_said_with_line_and_column(ask, body, status, message):
    answer = ask(ITEM, JSON, method="POST", body=body)
    assert (answer.status, answer.body.decode()) == (status, message)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_body_is_read_to_a_depth_of_128(ask):
    def nested(depth: int) -> bytes:
        return b'{"env":"dev","value":' + b"[" * depth + b"]" * depth + b"}"

    assert ask(ITEM, JSON, method="POST", body=nested(126)).status == 200
    answer = ask(ITEM, JSON, method="POST", body=nested(127))
    assert answer.status == 400
    assert answer.body.endswith(b"recursion limit exceeded at line 1 column 148")


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":1,"env":"dev"} and more',
        b'["x", "dev"]',
        b'{"value":1,"env":"dev","is_secret":true,"x":[null,{"a":1}]}',
    ],
)
def test_what_serde_takes_is_taken(ask, body):
    assert ask(ITEM, JSON, method="POST", body=body).status == 200
    assert isinstance(ask(f"{ITEM}/history").json[0]["value"], int | str), "and stored in plain"


def test_a_body_over_two_mebibytes_is_too_large(ask):
    answer = ask(ITEM, JSON, method="POST", body=b" " * (2 * 1024 * 1024 + 1))
    assert answer.line == "HTTP/1.1 413 Payload Too Large"
    assert answer.body == b"Failed to buffer the request body: length limit exceeded"
    assert ask(ITEM, JSON, method="POST", body=b" " * (2 * 1024 * 1024)).status == 400


def test_old_reason_phrases_are_on_the_wire(ask):
    assert ask(ITEM, JSON, method="POST", body=b"{}").line == "HTTP/1.1 422 Unprocessable Entity"
    assert ask(ITEM).line == "HTTP/1.1 404 Not Found"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)  # a busy machine is no defect
@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_every_json_value_is_read_as_it_was_written(value, ascii_only, indent):
    body = json.dumps({"value": value, "env": "dev"}, ensure_ascii=ascii_only, indent=indent).encode()
    read = read_set_body(body)
    assert (read.value, read.env, read.user, read.secret) == (value, "dev", "api-user", False)


@settings(deadline=None)  # a busy machine is no defect
@given(JSON_VALUES, st.integers(0, 200), st.binary(max_size=3))
def test_a_damaged_body_is_read_or_refused_and_never_a_defect(value, where, damage):
    body = json.dumps({"value": value, "env": "dev"}).encode()
    where %= len(body)
    try:
        read_set_body(body[:where] + damage + body[where + 1 :])
    except RefusedError as refused:
        assert re.search(rb" at line \d+ column \d+$", refused.reply.body)  # noqa: PT017 - either outcome is right


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "FROB"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=255)),
    st.binary(max_size=40),
)
def test_whatever_is_asked_the_answer_is_a_reply_and_never_a_defect(method, rest, body):
    platform = Platform(MemoryStorage(), Randomness(1), Options(), limits=None, encryption_key=bytes(32))
    core = Core(load_profile("upstream-0.5"), platform)
    headers = (("X-Forwarded-Proto", "https"), ("Content-Type", "application/json"))
    moment = Clock()()
    for target in (f"/{rest}", f"/api/v1/configs/{rest}", f"{ITEM}?{rest}", f"{ITEM}/rollback/{rest}"):
        exchange = core.begin(Request(method, target, headers), moment)
        outcome = exchange.answer_head(moment) or exchange.answer(body, moment)
        assert isinstance(outcome, Outcome)
        assert 200 <= outcome.reply.status < 600
    assert core.defects == []


# --- Section 2a: the validator --------------------------------------------------------------------

REFUSED = [
    "union/select", "ns/UNION-SELECT", "drop/table", "ns/insert.into", "delete/from", "update/set", "ns/a'b",
    "ns/a--b", "ns/a;b", "a/*b", "a*/b", "ns/a@b", "ns/exec+sp_x", "ns/Exec++xp_cmd", "ns/javascript:x",
    "ns/JavaScript:", "ns/onload=x", "ns/k?environment=x", "ns/eval(x", "ns/EXPRESSION(", "../k", "ns..%5C/k?../",
    "%2e%2e/k", "ns/%2e%2e\\", "ns/..\\k", "ns/a&b", "ns/a|b", "ns/a$b", "ns/k?env=a'b", "ns/k?x;y",
]  # fmt: skip
ALLOWED = [
    "ns/unionselect", "ns/select.union", "table/drop", "ns/a-b", "ns/a*b", "ns/exec.sp_x", "ns/on.x", "ns/ons",
    "%2E%2E/k", "%2e%2E/k", "ns/a:b", "ns/a%27b", "ns/k?env=%27", "ns/a,b", "ns/a~b", "ns/a!b", "ns/(a)", "ns/a+b",
    "union/x%20select",
]  # fmt: skip


@pytest.mark.parametrize("rest", REFUSED)
def test_what_looks_like_an_attack_is_refused(ask, rest):
    assert ask(f"/api/v1/configs/{rest}").body == said(400, "Bad Request", POLICY)


@pytest.mark.parametrize("rest", ALLOWED)
def test_what_only_resembles_one_is_not(ask, rest):
    assert ask(f"/api/v1/configs/{rest}").body.startswith(
        (b'{"error":"Not Found"', b'{"error":"Bad Request","message":"Unknown')
    )


def test_lengths_are_of_the_path_after_the_prefix_and_of_the_query(ask):
    fitting = 1000 - len("/configs/ns/")
    assert ask(f"/api/v1/configs/ns/{'k' * fitting}").status == 404
    message = "Input validation failed: Input exceeds maximum length of 1000 characters"
    assert ask(f"/api/v1/configs/ns/{'k' * (fitting + 1)}").body == said(400, "Bad Request", message)
    assert ask(f"{ITEM}?x={'k' * 998}").status == 404
    assert ask(f"{ITEM}?x={'k' * 999}").body == said(400, "Bad Request", message)


def test_bodies_are_not_validated(ask):
    assert put(ask, "'; DROP TABLE x; --")["version"] == 1


# --- Section 2a: limits ---------------------------------------------------------------------------


@pytest.fixture
def limited(clock: Clock) -> Iterator[MockServer]:
    with MockServer("upstream-0.5", clock=clock) as running:
        yield running


def passing(ask: Ask, count: int, *headers: str) -> int:
    """How many of so many requests pass."""
    answers = [ask(ITEM, *headers) for _ in range(count)]
    for answer in answers:
        assert answer.status in {404, 429}
        if answer.status == 429:
            assert answer.body == said(429, "Too Many Requests", LIMITED)
            assert "retry-after" not in answer.headers
    return sum(answer.status == 404 for answer in answers)


def test_ten_pass_from_cold_and_eleven_after_a_rest(limited, asking, clock):
    ask = asking(limited)
    assert passing(ask, 11) == 10
    clock.seconds += 0.1
    assert passing(ask, 2) == 1
    clock.seconds += 10
    assert passing(ask, 12) == 11


def test_with_any_authorization_the_bucket_of_the_address_still_holds(limited, asking):
    assert passing(asking(limited), 12, "Authorization: Bearer nonsense") == 10


def test_both_buckets_are_spent_anonymously_and_one_with_authorization(limited, asking, clock):
    ask = asking(limited)
    assert passing(ask, 10, "Authorization: x") == 10
    clock.seconds += 0.5
    assert passing(ask, 6) == 5, "the address's bucket is the same, whoever asks"


def test_the_tenth_violation_bans_for_an_hour_and_looks_like_a_limit(limited, asking, clock):
    ask = asking(limited)
    assert passing(ask, 20) == 10, "ten violations"
    clock.seconds += 3599.9
    assert passing(ask, 1) == 0
    clock.seconds += 0.2
    assert passing(ask, 11) == 11, "the ban is over"
    assert passing(ask, 1) == 0, "the eleventh violation bans again"
    clock.seconds += 3599
    assert passing(ask, 1) == 0
    clock.seconds += 2
    assert passing(ask, 1) == 1


def test_nine_violations_do_not_ban(limited, asking, clock):
    ask = asking(limited)
    assert passing(ask, 19) == 10
    clock.seconds += 2
    assert passing(ask, 5) == 5


def test_what_is_refused_later_has_spent_its_budget(limited, asking):
    ask = asking(limited)
    for target, method, tls in [
        (ITEM, "GET", False),
        ("/api/v1/configs/a--b/k", "GET", True),
        (ITEM, "PATCH", True),
        (ITEM, "POST", True),
    ]:
        assert ask(target, method=method, tls=tls).status in {426, 400, 405, 415}
    assert passing(ask, 7) == 6


def test_health_and_unknown_paths_and_preflights_are_never_limited(limited, asking):
    ask = asking(limited)
    assert {ask("/health").status for _ in range(12)} == {200}
    assert {ask("/nowhere").status for _ in range(12)} == {404}
    assert {ask(ITEM, method="OPTIONS").status for _ in range(12)} == {200}
    assert passing(ask, 11) == 10


def test_a_forwarded_address_is_not_looked_at(limited, asking):
    ask = asking(limited)
    for number in range(10):
        assert ask(ITEM, f"X-Forwarded-For: 10.0.0.{number}").status == 404
    assert ask(ITEM, "X-Forwarded-For: 10.0.0.99").status == 429


def test_a_reset_lifts_limits_and_bans(limited, asking):
    ask = asking(limited)
    assert passing(ask, 20) == 10
    limited.reset()
    assert passing(ask, 10) == 10


def test_limits_of_ones_own_are_taken(asking, clock):
    with MockServer("upstream-0.5", limits=Limits(rate=1, burst=2), clock=clock) as server:
        assert passing(asking(server), 3) == 2


def admitted(gate: Gate, clock: Clock, address: str, count: int, *, authenticated: bool = False) -> int:
    """How many of so many requests of an address pass, straight through the gate."""
    passed = 0
    for _ in range(count):
        with contextlib.suppress(RefusedError):
            gate.pass_through(address, clock(), authenticated=authenticated)
            passed += 1
    return passed


def test_everybody_anonymous_shares_a_bucket_and_everybody_else_a_larger_one(clock):
    gate = Gate()
    assert [admitted(gate, clock, address, 6) for address in ("a", "b")] == [6, 4]
    assert [admitted(gate, clock, f"with {n}", 11, authenticated=True) for n in range(6)] == [
        10,
        10,
        10,
        10,
        6,
        0,
    ]


def test_what_the_bucket_of_an_address_refuses_has_spent_everybodys(clock):
    gate = Gate()
    assert admitted(gate, clock, "a", 10, authenticated=True) == 10
    assert admitted(gate, clock, "a", 5) == 0, "its own bucket is empty"
    assert admitted(gate, clock, "b", 10) == 5, "and what it tried was counted against everybody"


def test_an_address_that_never_passed_collects_no_violations(clock):
    gate = Gate()
    assert admitted(gate, clock, "a", 10) == 10
    assert admitted(gate, clock, "late", 30) == 0, "refused by everybody's bucket, without one of its own"
    clock.seconds += 1.2
    assert admitted(gate, clock, "late", 10) == 10, "so it is not banned"


def test_a_banned_address_spends_nobodys_budget_and_counts_nothing(clock):
    gate = Gate()
    assert admitted(gate, clock, "a", 20) == 10
    clock.seconds += 2
    assert admitted(gate, clock, "a", 100) == 0
    assert admitted(gate, clock, "b", 11) == 10
    clock.seconds += 3600
    assert admitted(gate, clock, "a", 10) == 10, "a hundred more while banned did not lengthen it"


# --- Section 2a: the parser -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"), [("/<", 400), ("/>", 400), ("/`", 400), ("/" + "a" * 65_534, 414)]
)
def test_the_parser_refuses_without_a_word(ask, target, status):
    answer = ask(target)
    assert (answer.status, answer.body, answer.headers["content-length"]) == (status, b"", "0")
    assert "access-control-allow-origin" not in answer.headers


def test_the_parser_takes_a_hundred_headers(ask):
    assert ask("/health", *(f"X-{number}: 1" for number in range(97))).status == 200
    answer = ask("/health", *(f"X-{number}: 1" for number in range(98)))
    assert (answer.status, answer.body) == (431, b"")
    assert "vary" not in answer.headers


def test_a_missing_host_is_accepted(server):
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as sent:
        sent.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert sent.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_bytes_above_ascii_may_stand_in_a_path(ask):
    assert ask("/api/v1/configs/\xc3\xa9/k").json["message"] == "Configuration not found: é:k"
