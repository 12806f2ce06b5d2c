"""The admin interface: what a test or a person steers over HTTP, and who is kept out."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import anyio
import httpx
import pytest

from llm_config_mock_server import MockServer, create_app, error, reset
from llm_config_mock_server.admin import RULES_MAX
from llm_config_mock_server.admin.events import BATCH_MAX, STREAMS_MAX
from llm_config_mock_server.conditions import COMPONENTS
from llm_config_mock_server.messages import At, Later, Outcome, Reply, Request, Stream
from mock_server.envelopes import error_of, variant_of

if TYPE_CHECKING:
    from llm_config_mock_server.core import Core

ITEM = "/api/v1/configs/app%2Fllm/model"
ADMIN = "/api/v1/admin"
GONE = {"do": "error", "code": "SERVICE_UNAVAILABLE", "retry_after": 1}


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=7, admin=True) as running:
        yield running


@pytest.fixture
def admin(server: MockServer) -> Iterator[httpx.Client]:
    """A client of the admin interface, on the loopback and without a token."""
    with httpx.Client(base_url=server.url + ADMIN, timeout=5, trust_env=False) as client:
        yield client


def refused(reply: httpx.Response, field: str) -> str:
    """Check that a reply names the field that is to blame, and return its message."""
    told = error_of(reply, 422, "VALIDATION_ERROR")
    assert told["details"]["field"] == field
    return told["message"]


# --- Who may come in --------------------------------------------------------------------------------


def test_it_is_not_there_unless_asked_for(client_as):
    with MockServer() as closed:
        client = client_as(of=closed)
        for path in (ADMIN, f"{ADMIN}/stats", f"{ADMIN}/events", "/console", "/console/console.js"):
            assert error_of(client.get(path), 404, "NOT_FOUND")["details"] == {"route": path}
        with pytest.raises(RuntimeError, match="admin=True"):
            _ = closed.console_url


def asked_from(server: MockServer, peer: str, *headers: tuple[str, str], host: str = "127.0.0.1:80") -> int:
    """Ask the core as if from another address, and return the status."""
    core: Core = server._core
    at = At.now()
    request = Request("GET", f"{ADMIN}/stats", (("host", host), *headers), peer=peer)
    exchange = core.begin(request, at)
    assert exchange.answer_head(at) is None
    outcome = exchange.answer(b"", at)
    assert isinstance(outcome, Outcome)
    return outcome.reply.status


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_the_loopback_needs_no_token(server, peer):
    assert asked_from(server, peer) == 200


@pytest.mark.parametrize("peer", ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "", "testclient"])
def test_whoever_is_elsewhere_needs_the_token_of_an_admin(server, peer):
    def with_token(token: str) -> int:
        return asked_from(server, peer, ("authorization", f"Bearer {token}"), host="lcm.example")

    assert asked_from(server, peer) == 401
    assert with_token("nonsense") == 403
    assert with_token(server.token("editor")) == 403
    assert with_token(server.token("admin", scope="team-a/**")) == 403
    assert with_token(server.token("admin")) == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[2001:db8::1]:80", ""])
def test_a_name_that_was_bent_to_the_loopback_is_kept_out(server, host):
    assert asked_from(server, "127.0.0.1", host=host) == 401


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080"])
def test_every_name_of_the_loopback_will_do(server, host):
    assert asked_from(server, "127.0.0.1", host=host) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_pages_of_other_origins_are_kept_out_and_change_nothing(server, admin, headers):
    server.put("app", "k", 1)
    reply = admin.post("/reset", headers=headers)
    assert error_of(reply, 403, "PERMISSION_DENIED")["details"] == {"header": "Origin"}
    assert server.entry("app", "k") is not None
    assert "access-control-allow-origin" not in reply.headers


def test_the_page_itself_is_let_in(server, admin):
    same = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert admin.post("/reset", headers=same).status_code == 204


def test_what_it_does_is_in_no_journal_and_meets_no_fault(server, admin):
    server.script("*", reset(), repeat="last")
    server.conditions["service"] = "unavailable"
    assert admin.get("/stats").status_code == 200
    assert httpx.get(server.console_url, trust_env=False).status_code == 200
    assert len(server.journal) == 0


# --- Faults -----------------------------------------------------------------------------------------


def test_a_fault_is_armed_listed_met_and_taken_back(server, admin, client):
    server.put("app/llm", "model", 1)
    body = {"name": "outage", "match": "GET /api/*", "steps": [GONE], "repeat": "last"}
    armed = admin.post("/faults", json=body)
    assert armed.status_code == 201
    reply = client.get(ITEM)
    error_of(reply, 503, "SERVICE_UNAVAILABLE")
    assert reply.headers["retry-after"] == "1"
    (rule,) = admin.get("/faults").json()["faults"]
    assert (rule["number"], rule["name"], rule["fired"]) == (armed.json()["number"], "outage", 1)
    assert rule["steps"] == ["error SERVICE_UNAVAILABLE"]
    assert admin.delete(f"/faults/{rule['number']}").status_code == 204
    assert client.get(ITEM).status_code == 200
    error_of(admin.delete(f"/faults/{rule['number']}"), 404, "NOT_FOUND")


def test_steps_come_one_after_the_other_and_then_requests_pass(admin, client):
    steps = [GONE, {"do": "reset"}, {"do": "error", "variant": "crypto.DecryptionFailed"}, {"do": "ok"}]
    assert admin.post("/faults", json={"match": "/health", "steps": steps}).status_code == 201
    assert client.get("/health").status_code == 503
    with pytest.raises(httpx.TransportError):
        client.get("/health")
    variant_of(client.get("/health"), 500, "DECRYPTION_ERROR", "crypto", "DecryptionFailed")
    assert client.get("/health").status_code == 200
    assert client.get("/health").status_code == 200


def test_a_match_may_be_told_by_its_fields(server, admin, client_as):
    match = {"method": "get", "namespace": "app/*", "env": "prod", "token": server.token("viewer")}
    admin.post("/faults", json={"match": match, "steps": [GONE], "repeat": "last"})
    server.put("app/llm", "model", 1, env="prod")
    assert client_as("viewer").get(ITEM, params={"env": "production"}).status_code == 503
    assert client_as("viewer").get(ITEM).status_code == 404
    assert client_as("editor").get(ITEM, params={"env": "prod"}).status_code == 200
    assert server.token("viewer") not in admin.get("/faults").text


@pytest.mark.parametrize(
    ("step", "status"),
    [
        ({"do": "respond", "status": 418, "body": {"tea": True}, "headers": {"x-pot": "short"}}, 418),
        ({"do": "respond", "body": "words"}, 200),
        ({"do": "html", "status": 504, "reason": "Gateway Timeout"}, 504),
        ({"do": "malformed"}, 200),
        ({"do": "mislabelled", "content_type": "text/plain"}, 200),
        ({"do": "oversized", "size": 1000}, 200),
        ({"do": "latency", "before": 0.001}, 200),
        ({"do": "drip", "interval": 0.0001, "size": 50, "part": "both"}, 200),
        ({"do": "stale", "on_reuse": True}, 200),
        ({"do": "error", "code": "CONFLICT", "details": {"a": 1}, "before": 0.001, "after": 0.001}, 409),
        ({"do": "error", "code": "TEAPOT", "status": 418, "at_head": True}, 418),
        ({"do": "error", "code": "RATE_LIMIT_EXCEEDED", "retry_after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 429),
    ],
)
def test_steps_that_answer_are_those_of_the_python_interface(admin, client, step, status):
    assert admin.post("/faults", json={"match": "/health", "steps": [step]}).status_code == 201
    reply = client.get("/health")
    assert reply.status_code == status
    if "headers" in step:
        assert (reply.headers["x-pot"], reply.json()) == ("short", {"tea": True})


@pytest.mark.parametrize(
    "step",
    [
        {"do": "close"},
        {"do": "garbage"},
        {"do": "half_close"},
        {"do": "reset", "keep": 5},
        {"do": "truncate", "keep": 3},
        {"do": "truncate", "head": 3},
    ],
    ids=str,
)
def test_steps_that_break_the_wire_are_those_of_the_python_interface(admin, client, step):
    assert admin.post("/faults", json={"match": "/health", "steps": [step]}).status_code == 201
    with pytest.raises(httpx.TransportError):
        client.get("/health")


def test_a_write_can_take_effect_and_its_answer_be_lost(server, admin, client):
    admin.post("/faults", json={"match": "POST", "steps": [{"do": "close", "after_effect": True}]})
    with pytest.raises(httpx.TransportError):
        client.post(ITEM, json={"value": 1, "env": "dev"})
    assert server.entry("app/llm", "model")["value"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "match"),
        ({"match": "*"}, "steps"),
        ({"match": "*", "steps": []}, "steps"),
        ({"match": 5, "steps": [GONE]}, "match.str"),
        ({"match": "what is this", "steps": [GONE]}, "match"),
        ({"match": {"env": "mars"}, "steps": [GONE]}, "match"),
        ({"match": "*", "steps": [GONE], "colour": "red"}, "colour"),
        ({"match": "*", "steps": [GONE], "repeat": "often"}, "repeat"),
        ({"match": "*", "steps": [GONE], "times": 0}, "times"),
        ({"match": "*", "steps": [GONE], "probability": 1.5}, "probability"),
        ({"match": "*", "steps": [GONE], "between": [1]}, "between"),
        ({"match": "*", "steps": [GONE, {"do": "fly"}]}, "steps.1.do"),
        ({"match": "*", "steps": [{"do": "error", "code": "X", "status": "500"}]}, "steps.0.status"),
        ({"match": "*", "steps": [{"do": "error", "code": "X", "status": 100}]}, "steps.0.status"),
        ({"match": "*", "steps": [{"do": "error", "code": "X", "size": 5}]}, "steps.0.size"),
        ({"match": "*", "steps": [{"do": "error"}]}, "steps.0"),
        ({"match": "*", "steps": [{"do": "error", "variant": "config.Nonsense"}]}, "steps.0"),
        ({"match": "*", "steps": [GONE, {"do": "ok", "at_head": True}]}, "steps.1"),
        ({"match": "*", "steps": [{"do": "respond", "headers": {"a b": "c"}}]}, "steps.0.headers"),
        ({"match": "*", "steps": [{"do": "respond", "headers": {"a": "b\r\nc: d"}}]}, "steps.0.headers"),
        ({"match": "*", "steps": [{"do": "error", "code": "X", "retry_after": "\n"}]}, "steps.0.retry_after"),
        ({"match": "*", "steps": [{"do": "mislabelled", "content_type": "a\nb"}]}, "steps.0.content_type"),
        ({"match": {"connection": True}, "steps": [{"do": "reset"}], "repeat": "last"}, "repeat"),
        ({"match": {"connection": True}, "steps": [GONE]}, "steps"),
    ],
)
def test_a_rule_that_makes_no_sense_names_the_field_and_is_not_armed(server, admin, body, field):
    refused(admin.post("/faults", json=body), field)
    assert len(server.faults) == 0


def test_there_is_an_end_to_the_rules(server, admin):
    for _ in range(RULES_MAX):
        server.script("/never", reset())
    error_of(admin.post("/faults", json={"match": "*", "steps": [GONE]}), 409, "CONFLICT")
    assert admin.delete("/faults").status_code == 204
    assert len(server.faults) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"match": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(admin, content):
    reply = admin.post("/faults", content=content)
    assert reply.status_code in {400, 422}
    assert reply.json()["error"]["details"]["field"] == "body"


# --- Chaos ------------------------------------------------------------------------------------------


def test_chaos_is_switched_on_and_off(server, admin, client):
    assert admin.get("/chaos").json()["enabled"] is False
    told = admin.put("/chaos", json={"rate": 1.0}).json()
    assert (told["enabled"], told["rate"]) == (True, 1.0)
    error_of(client.get(ITEM), 500, "STORAGE_ERROR")
    assert admin.get("/chaos").json()["fired"] == 1
    assert admin.put("/chaos", json={"rate": 0.0}).json()["rate"] == 0.0
    assert len(server.faults) == 1, "one chaos takes the place of another"
    assert client.get(ITEM).status_code == 404
    assert admin.delete("/chaos").status_code == 204
    assert admin.get("/chaos").json() == dict.fromkeys(["rate", "match", "fired", "rule"]) | {
        "enabled": False
    }
    assert len(server.faults) == 0


def test_chaos_may_be_of_any_kind_and_ends_with_all_faults(server, admin, client):
    admin.put("/chaos", json={"rate": 1.0, "match": "/health", "steps": [{"do": "html"}]})
    assert client.get("/health").status_code == 502
    server.faults.clear()
    assert admin.get("/chaos").json()["enabled"] is False
    refused(admin.put("/chaos", json={"rate": 2}), "rate")
    refused(admin.put("/chaos", json={"match": "?!"}), "match")


# --- Conditions -------------------------------------------------------------------------------------


def test_a_component_is_brought_into_a_condition_and_healed(server, admin, client):
    server.put("app/llm", "model", 1)
    assert admin.put("/conditions/store", json={"kind": "StorageFull", "count": 2}).status_code == 200
    assert admin.get("/conditions").json()["conditions"]["store"] == {"kind": "StorageFull", "count": 2}
    reply = client.post(ITEM, json={"value": 1, "env": "dev"})
    assert variant_of(reply, 500, "STORAGE_ERROR", "config", "IoError")["kind"] == "StorageFull"
    assert server.conditions["store"].count == 1
    assert admin.delete("/conditions/store").status_code == 204
    assert admin.delete("/conditions/store").status_code == 204
    assert client.get(ITEM).status_code == 200


def test_all_components_are_told_and_healed_at_once(server, admin):
    told = admin.get("/conditions").json()
    assert told["conditions"] == dict.fromkeys(COMPONENTS)
    assert "StorageFull" in told["kinds"]
    server.conditions["audit"] = "panic"
    assert admin.delete("/conditions").status_code == 204
    assert len(server.conditions) == 0


@pytest.mark.parametrize(
    ("component", "body", "field"),
    [
        ("store", {"kind": "lossy"}, "kind"),
        ("heart", {"kind": "panic"}, "component"),
        ("store", {}, "kind"),
        ("store", {"kind": "sad"}, "kind"),
        ("store", {"kind": "panic", "count": 0}, "count"),
        ("store", {"kind": "panic", "count": True}, "count"),
    ],
)
def test_a_condition_that_makes_no_sense_names_the_field(server, admin, component, body, field):
    refused(admin.put(f"/conditions/{component}", json=body), field)
    assert len(server.conditions) == 0


# --- Journal ----------------------------------------------------------------------------------------


def test_the_journal_is_read_and_cleared_and_shows_no_token(server, admin, client):
    for _ in range(3):
        client.get(ITEM, params={"env": "prod"})
    told = admin.get("/journal").json()
    assert [request["number"] for request in told["requests"]] == [1, 2, 3]
    first = told["requests"][0]
    assert (first["method"], first["namespace"], first["key"], first["env"]) == (
        "GET",
        "app/llm",
        "model",
        "production",
    )
    assert (first["status"], first["code"], first["is_done"]) == (404, "NOT_FOUND", True)
    assert server.token() not in json.dumps(told)
    assert [entry["number"] for entry in admin.get("/journal?limit=2").json()["requests"]] == [2, 3]
    assert [entry["number"] for entry in admin.get("/journal?after=1&limit=1").json()["requests"]] == [2]
    assert admin.get("/journal?limit=0").json() == {"requests": [], "kept": 3}
    assert admin.delete("/journal").status_code == 204
    assert len(server.journal) == 0


@pytest.mark.parametrize("limit", ["-1", "1001", "many", "1.5", "", "٣"])
def test_a_limit_that_is_none_names_the_field(admin, limit):
    for path in ("/journal", "/entries"):
        refused(admin.get(path, params={"limit": limit}), "limit")


# --- Entries ----------------------------------------------------------------------------------------


def test_entries_are_listed_without_secrets_and_past_conditions(server, admin):
    server.put("team-b", "k", {"a": [1]}, env="prod")
    server.put("app/llm", "model", "gpt-4")
    server.put("app/llm", "token", "sk-1", secret=True)
    server.put("app/llm", "page", "x" * 5000)
    server.conditions["store"] = "unavailable"
    reply = admin.get("/entries")
    told = {entry["key"]: entry for entry in reply.json()["entries"]}
    assert [entry["key"] for entry in reply.json()["entries"]] == ["model", "page", "token", "k"]
    assert told["model"]["value"] == "gpt-4"
    assert (told["token"]["secret"], told["token"]["value"]) == (True, "[ENCRYPTED]")
    assert (told["page"]["value"], told["page"]["is_shortened"]) == (None, True)
    assert "sk-1" not in reply.text
    assert admin.get("/entries?namespace=team-b").json()["in_all"] == 1
    assert admin.get("/entries?env=prod").json()["in_all"] == 1
    page = admin.get("/entries?limit=1&offset=1").json()
    assert ([entry["key"] for entry in page["entries"]], page["in_all"]) == (["page"], 4)
    refused(admin.get("/entries?env=mars"), "env")


def test_an_entry_is_put_and_removed_past_roles(server, admin, client):
    body = {"value": {"a": 1}, "env": "prod", "tags": ["x"], "description": "d", "user": "ann"}
    written = admin.put("/entries/app%2Fllm/model", json=body)
    assert written.status_code == 200
    assert client.get(ITEM, params={"env": "prod"}).json() == written.json()
    assert written.json()["metadata"]["created_by"] == "ann"
    assert admin.delete("/entries/app%2Fllm/model", params={"env": "prod"}).status_code == 204
    error_of(admin.delete("/entries/app%2Fllm/model", params={"env": "prod"}), 404, "NOT_FOUND")


def test_a_secret_that_is_put_is_not_told_back(server, admin, client):
    reply = admin.put("/entries/app%2Fllm/model", json={"value": "sk-1", "secret": True})
    assert reply.json()["value"] == "[ENCRYPTED]"
    assert client.get(ITEM).json()["value"] == "sk-1"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("a.b/k", {"value": 1}, "namespace"),
        ("a/k%20", {"value": 1}, "key"),
        ("a/k", {}, "value"),
        ("a/k", {"value": 1, "env": "mars"}, "env"),
        ("a/k", {"value": 1, "secret": True}, "value"),
        ("a/k", {"value": 1, "tags": [1]}, "tags.0"),
        ("a/k", {"value": 1, "user": ""}, "user"),
    ],
)
def test_an_entry_that_makes_no_sense_names_the_field(admin, path, body, field):
    refused(admin.put(f"/entries/{path}", json=body), field)


def test_an_entry_that_the_store_refuses_is_a_storage_error(server, admin):
    server.conditions["store"] = "StorageFull"
    told = error_of(admin.put("/entries/a/k", json={"value": 1}), 500, "STORAGE_ERROR")
    assert told["details"]["kind"] == "StorageFull"


def test_raw_bytes_in_the_place_of_a_record_are_a_broken_record(server, admin, client):
    server.put("app/llm", "model", 1)
    assert admin.put("/records/app%2Fllm/model", content=b"\x00no record").status_code == 204
    variant_of(client.get(ITEM), 500, "INTERNAL_ERROR", "config", "SerializationError")
    (entry,) = admin.get("/entries").json()["entries"]
    assert entry["is_broken"] is True


def test_raw_bytes_in_the_cache_break_the_cache_alone(server, admin, client):
    server.put("app/llm", "model", 1)
    assert client.get(ITEM).status_code == 200
    reply = admin.put("/records/app%2Fllm/model", params={"tier": "l2"}, content=b"no record")
    assert reply.status_code == 204
    looked_up = client.get("/api/v1/cache/entries/app%2Fllm/model")
    variant_of(looked_up, 500, "INTERNAL_ERROR", "cache", "SerializationError")
    assert client.get(ITEM).json()["value"] == 1


def test_a_tier_that_is_none_names_the_field(admin):
    refused(admin.put("/records/a/k", params={"tier": "l9"}, content=b""), "tier")
    refused(admin.put("/records/a/k", params={"env": "mars"}, content=b""), "env")


# --- The whole --------------------------------------------------------------------------------------


def test_stats_count_what_happened(server, admin, client):
    server.put("app/llm", "model", 1)
    server.script("/health", [error("SERVICE_UNAVAILABLE"), reset()])
    client.get(ITEM)
    client.get("/nope")
    client.get("/health")
    with pytest.raises(httpx.TransportError):
        client.get("/health")
    told = admin.get("/stats").json()
    assert told["requests"]["by_status"] == {"none": 1, "200": 1, "404": 1, "503": 1}
    assert told["requests"]["by_code"] == {"NOT_FOUND": 1, "SERVICE_UNAVAILABLE": 1}
    assert (told["requests"]["kept"], told["profile"], told["seed"]) == (4, "guide", 7)
    assert (told["defects"], told["faults"][0]["is_spent"]) == ([], True)
    assert admin.get("").json() == told


def test_reset_forgets_everything_but_the_tokens(server, admin, client):
    server.put("app/llm", "model", 1)
    server.script("*", reset(), repeat="last")
    server.conditions["store"] = "panic"
    assert admin.post("/reset").status_code == 204
    assert client.get(ITEM).status_code == 404
    assert (len(server.faults), len(server.conditions)) == (0, 0)


def test_what_there_is_not_is_said_in_the_envelope(admin):
    assert error_of(admin.get("/nonsense"), 404, "NOT_FOUND")["details"] == {"route": f"{ADMIN}/nonsense"}
    reply = admin.patch("/faults")
    error_of(reply, 405, "INVALID_REQUEST")
    assert reply.headers["allow"] == "DELETE, GET, POST"
    error_of(admin.post("/events"), 405, "INVALID_REQUEST")


def test_every_reply_may_be_kept_by_nobody(admin):
    for path in ("/stats", "/nonsense"):
        headers = admin.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"].startswith("aside_")


def test_a_defect_of_the_interface_is_answered_and_reaches_the_test(monkeypatch):
    server = MockServer(admin=True).start()
    monkeypatch.setattr(server._core.journal, "clear", lambda: 1 / 0)
    reply = httpx.delete(f"{server.url}{ADMIN}/journal", trust_env=False)
    assert reply.status_code == 500
    with pytest.raises(RuntimeError, match="mock server itself failed"):
        server.__exit__(None, None, None)


def test_it_works_with_every_profile_and_without_tokens(client_as):
    with MockServer("upstream-0.5", admin=True, auth=False) as server:
        url = server.url + ADMIN
        assert httpx.get(f"{url}/stats", trust_env=False).json()["profile"] == "upstream-0.5"
        reply = httpx.options(f"{url}/stats", headers={"origin": "http://evil.example"}, trust_env=False)
        assert reply.status_code == 403
        assert "access-control-allow-origin" not in reply.headers


# --- Events -----------------------------------------------------------------------------------------


class Listener:
    """Listens as an `EventSource` does: one stream, and a cursor to come back with."""

    def __init__(self, client: httpx.Client, cursor: str = "", **params: str) -> None:
        headers = {"last-event-id": cursor} if cursor else {}
        request = client.build_request("GET", "/events", headers=headers, params=params, timeout=20)
        self.reply = client.send(request, stream=True)
        self.cursor = cursor
        self._lines = self.reply.iter_lines() if self.reply.status_code == 200 else iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reply.close()

    def next(self) -> list[tuple[str, dict]]:
        """Wait for news, and return all of one piece."""
        found: list[tuple[str, dict]] = []
        fields: dict[str, str] = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                found.append((fields["event"], json.loads(fields["data"])))
            if "id" in fields:
                self.cursor = fields["id"]
                return found
            fields = {}
        return found

    def requests(self, count: int) -> list[tuple[int, bool]]:
        """Wait until so many requests were told."""
        seen: list[tuple[int, bool]] = []
        while len(seen) < count:
            seen += [(told["number"], told["is_done"]) for name, told in self.next() if name == "request"]
        return seen


@pytest.fixture
def listen(admin: httpx.Client) -> Iterator[Callable[..., Listener]]:
    with ExitStack() as stack:
        yield lambda cursor="", **params: stack.enter_context(Listener(admin, cursor, **params))


def streams_of(server: MockServer) -> set:
    return server._core.aside.__self__._admin._feed.open


def test_events_are_a_stream_that_begins_with_the_state_and_the_requests_so_far(client, listen):
    client.get("/health")
    events = listen()
    assert events.reply.headers["content-type"] == "text/event-stream"
    assert events.reply.headers["transfer-encoding"] == "chunked"
    (state, told), (request, seen) = events.next()
    assert (state, told["profile"], request, seen["path"]) == ("state", "guide", "request", "/health")


def test_every_request_is_told_once_on_the_same_stream(client, listen):
    events = listen()
    events.next()
    for number in (1, 2, 3):
        client.get("/health")
        assert events.requests(1) == [(number, True)]


def test_a_listener_that_was_cut_off_is_told_what_it_missed_and_nothing_twice(client, listen):
    events = listen()
    client.get("/health")
    events.requests(1)
    events.reply.close()
    for _ in range(3):
        client.get("/health")
    again = listen(events.cursor)
    assert again.requests(3) == [(2, True), (3, True), (4, True)]
    by_parameter = listen(last_event_id=again.cursor)
    client.get("/health")
    assert by_parameter.requests(1) == [(5, True)]


def test_a_cursor_of_the_server_that_was_here_before_begins_anew(client, listen):
    client.get("/health")
    other = f"{'0' * 8}.99..{'0' * 16}"
    assert [name for name, _ in listen(other).next()] == ["state", "request"]


def test_a_request_that_is_decided_later_is_told_again(server, listen):
    events = listen()
    core: Core = server._core
    at = At.now()
    exchange = core.begin(Request("GET", "/api/v1/configs/app/k"), at)
    assert events.requests(1) == [(1, False)]
    exchange.answer(b"", at)
    assert listen(events.cursor).requests(1) == [(1, True)]
    assert events.requests(1) == [(1, True)]


def test_news_of_the_state_are_told_without_a_request(server, listen):
    events = listen()
    events.next()
    server.conditions["audit"] = "panic"
    ((name, told),) = events.next()
    assert (name, told["conditions"]["audit"]) == ("state", {"kind": "panic", "count": None})
    server.put("app", "k", 1)
    ((_, changed),) = events.next()
    assert changed["changes"] > told["changes"]


def test_a_cleared_journal_is_followed_from_its_new_beginning(server, client, listen):
    events = listen()
    for _ in range(3):
        client.get("/health")
    assert events.requests(3) == [(1, True), (2, True), (3, True)]
    server.journal.clear()
    client.get("/health")
    assert events.requests(1) == [(4, True)]


def test_a_flood_comes_in_pieces_and_is_whole(server, listen):
    events = listen()
    events.next()
    core: Core = server._core
    with core.lock:  # nothing is told before all are there
        for _ in range(BATCH_MAX + 10):
            core.begin(Request("GET", "/health"), At.now()).answer(b"", At.now())
    first = events.requests(1)
    assert len(first) == BATCH_MAX
    assert [number for number, _ in first + events.requests(10)] == list(range(1, BATCH_MAX + 11))


@pytest.mark.parametrize(
    "cursor", ["nonsense", "1.2", "0..0", "abcdef01.-1..0", f"abcdef01.1..{'0' * 16}; drop", "9" * 40 + "..0"]
)
def test_a_cursor_that_is_none_names_the_field(admin, cursor):
    refused(admin.get("/events", headers={"last-event-id": cursor}), "Last-Event-ID")


def streamed(server: MockServer) -> Stream:
    """Ask the core for the events, and return what a host would go on asking."""
    request = Request("GET", f"{ADMIN}/events", (("host", "localhost"),))
    outcome = server._core.begin(request, At(0, 0.0)).answer(b"", At(0, 0.0))
    assert isinstance(outcome, Outcome)
    assert outcome.reply.stream is not None
    return outcome.reply.stream


def test_a_stream_without_news_shows_that_it_lives_and_ends_in_the_end(server):
    stream = streamed(server)
    assert stream.next(At(0, 0.0)) == b"retry: 200\n\n"
    assert b"event: state" in stream.next(At(0, 1.0))
    assert stream.next(At(0, 1.0)) == Later(0.1)
    assert stream.next(At(0, 10.9)) == Later(0.1)
    assert stream.next(At(0, 11.0)) == b": still here\n\n"
    assert stream.next(At(0, 20.9)) == Later(0.1)
    assert stream.next(At(0, 3599.9)) == b": still here\n\n"
    assert stream.next(At(0, 3600.0)) is None


def test_so_many_may_listen_and_no_more(server, admin, listen):
    streams = [streamed(server) for _ in range(STREAMS_MAX)]
    for stream in streams:
        stream.next(At(0, 0.0))
    reply = admin.get("/events")
    error_of(reply, 503, "SERVICE_UNAVAILABLE")
    assert reply.headers["retry-after"] == "1"
    streams[0].close()
    assert listen().next()


def test_a_client_that_went_is_served_no_longer(server, client, listen):
    with listen() as events:
        events.next()
        assert len(streams_of(server)) == 1
    until = time.monotonic() + 10
    while streams_of(server) and time.monotonic() < until:
        client.get("/health")  # the server has its turns while it answers
    assert not streams_of(server)


def test_a_head_request_is_told_what_there_would_be(server, admin):
    reply = admin.head("/events")
    assert (reply.status_code, reply.headers["content-type"], reply.content) == (
        200,
        "text/event-stream",
        b"",
    )
    assert not streams_of(server)


def test_a_client_of_http_1_0_reads_until_the_connection_ends(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as old:
        old.sendall(f"GET {ADMIN}/events HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        received = b""
        while b"\nid: " not in received:
            received += old.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body.startswith(b"retry: 200\n\nevent: state\n")


def test_stopping_ends_the_streams_at_once(server, listen):
    listeners = [listen() for _ in range(5)]
    for events in listeners:
        events.next()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 0.5
    assert not streams_of(server)
    for events in listeners:
        with pytest.raises(httpx.TransportError):
            events.next()


def test_the_in_process_transport_carries_a_stream(server):
    with httpx.Client(transport=server.transport(), base_url=f"http://localhost{ADMIN}") as client:
        with Listener(client) as events:
            events.next()
            server.put("app", "k", 1)
            ((name, told),) = events.next()
            assert (name, told["changes"]) == ("state", 1)
        assert not streams_of(server)


@pytest.mark.anyio
async def test_an_asgi_application_carries_a_stream_until_its_client_goes():
    app = create_app(admin=True)
    sent: list[dict] = []
    gone = anyio.Event()

    async def receive() -> dict:
        if len(sent) == 0:
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)
        if b"event: request" in message.get("body", b""):
            gone.set()
        elif b"event: state" in message.get("body", b""):
            app.server._core.begin(Request("GET", "/health"), At.now()).answer(b"", At.now())

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"{ADMIN}/events",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
    }
    with anyio.fail_after(10):
        await app(scope, receive, send)
    assert dict(sent[0]["headers"])[b"content-type"] == b"text/event-stream"
    assert not streams_of(app.server)


def test_a_ticket_stands_for_a_token_once(server):
    token = server.token()
    core: Core = server._core

    def ask(method: str, target: str, at: float, *headers: tuple[str, str]) -> Reply:
        request = Request(method, ADMIN + target, (("host", "lab:80"), *headers), peer="10.0.0.9")
        outcome = core.begin(request, At(0, at)).answer(b"", At(0, at))
        assert isinstance(outcome, Outcome)
        return outcome.reply

    def ticket(at: float) -> str:
        made = ask("POST", "/events/tickets", at, ("authorization", f"Bearer {token}"))
        assert made.status == 201
        return json.loads(made.body)["ticket"]

    assert ask("POST", "/events/tickets", 0.0).status == 401
    assert ask("GET", "/events", 0.0).status == 401
    first = ticket(0.0)
    assert ask("GET", f"/events?ticket={first}x", 0.0).status == 401
    assert ask("GET", f"/events?ticket={first}", 29.9).status == 200
    assert ask("GET", f"/events?ticket={first}", 29.9).status == 401
    second = ticket(30.0)
    assert ask("GET", f"/events?ticket={second}", 60.0).status == 401
    third = ticket(60.0)
    assert ask("GET", f"/stats?ticket={third}", 60.0).status == 401
    assert ask("GET", f"/events?ticket={third}", 60.0, ("origin", "http://evil.example")).status == 403
