"""Every call of the client, against the reference server: what it returns, what it sends, what it refuses."""

import json
import logging
from contextlib import ExitStack
from unittest.mock import call

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import SecretStr

from client_faces import Face
from llm_config_mock_server import Match, error, html, respond
from llm_config_sdk import (
    UNSET,
    ClientError,
    ConfigError,
    ConflictError,
    DecryptionError,
    InvalidKeyError,
    InvalidNamespaceError,
    InvalidRequestError,
    InvalidValueError,
    LLMConfigError,
    NotFoundError,
    PermissionDeniedError,
    ResponseDecodeError,
    UnauthorizedError,
    ValidationError,
    ValidationFailure,
    VersionNotFoundError,
)
from llm_config_sdk.contract import KEY_PATTERN, NAMESPACE_PATTERN

GET = "GET /api/*"


def wire_entry(namespace="app", key="n", value=1, version=1, environment="production", **more):
    moment = "2024-01-15T10:30:00Z"
    metadata = {"created_at": moment, "created_by": "a", "updated_at": moment, "updated_by": "a"}
    return {
        "id": f"id-{key}",
        "namespace": namespace,
        "key": key,
        "value": value,
        "environment": environment,
        "version": version,
        "metadata": metadata,
        **more,
    }


# --- Each call ----------------------------------------------------------------------------------


def test_an_entry_goes_through_its_whole_life(connect_any, server):
    client = connect_any()
    first = client.set_config("app/llm", "model", {"name": "gpt-4", "n": [1, 2]})
    assert (first.version, first.source, first.endpoint) == (1, "server", server.url)
    assert client.get_config("app/llm", "model").value == {"name": "gpt-4", "n": [1, 2]}
    assert client.set_config("app/llm", "model", "gpt-5", expected_version=first).version == 2
    assert client.get_str("app/llm", "model") == "gpt-5"
    assert [item.version for item in client.get_history("app/llm", "model")] == [2, 1]
    back = client.rollback("app/llm", "model", 1)
    assert back.value == first.value
    assert back.version == 3
    assert client.delete_config("app/llm", "model") is None
    with pytest.raises(NotFoundError):
        client.get_config("app/llm", "model")


def test_a_list_is_sorted_by_key_and_knows_where_it_came_from(connect_any, server):
    for key in ("b", "c", "a"):
        server.put("app", key, key, env="production")
    listed = connect_any().list_configs("app")
    assert [entry.key for entry in listed] == ["a", "b", "c"]
    assert {entry.endpoint for entry in listed} == {server.url}
    assert connect_any().list_configs("empty") == []


def test_a_list_leaves_out_entries_of_other_namespaces(connect, server):
    server.script(GET, respond(200, [wire_entry(key="z"), wire_entry("app::x"), wire_entry(key="a")]))
    assert [(e.namespace, e.key) for e in connect().list_configs("app")] == [("app", "a"), ("app", "z")]


def test_health_tells_what_the_server_says_of_itself(connect_any):
    health = connect_any().health_check()
    assert health.is_healthy
    assert health.service == "llm-config-manager"


def test_request_reaches_what_has_no_method_of_its_own(connect_any, server):
    server.put("app", "n", 1, env="production")
    client = connect_any()
    assert client.request("GET", "/api/v1/configs/app/n", params={"env": "production"})["value"] == 1
    body = {"value": 2, "env": "production"}
    assert client.request("post", "/api/v1/configs/app/n", json=body)["version"] == 2
    assert client.request("DELETE", "/api/v1/configs/app/n?env=production") is None


def test_request_tells_an_unknown_route_from_an_absent_entry(connect_any):
    with pytest.raises(NotFoundError) as caught:
        connect_any().request("GET", "/api/v1/nothing/of/the/kind")
    assert not caught.value.is_not_found
    assert caught.value.is_route_problem


def test_resolve_takes_the_most_specific_environment(connect_any, server, caplog):
    server.put("app", "everywhere", "base", env="base")
    server.put("app", "everywhere", "staging", env="staging")
    server.put("app", "only-base", "base", env="base")
    client = connect_any()
    assert client.resolve("app", "everywhere", env="staging").value == "staging"
    assert client.resolve("app", "everywhere").value == "staging"
    assert client.resolve("app", "everywhere", env="dev").value == "base"
    assert client.resolve("app", "only-base").environment == "base"
    assert client.resolve("app", "only-base", env="edge").value == "base"
    assert caplog.records == [], "looking further is no failure"


def test_resolve_says_where_it_looked_in_vain(connect_any, server):
    server.put("app", "n", 1, env="edge")
    with pytest.raises(NotFoundError) as caught:
        connect_any().resolve("app", "n")
    assert caught.value.environment == "production"
    assert caught.value.__notes__ == ["looked in production, staging, development, base"]
    server.journal.assert_count(4)


def test_resolve_raises_an_error_that_is_no_absence(face, connect, server):
    server.put("app", "n", 1, env="base")
    server.script(Match(method="GET", env="production"), error("PERMISSION_DENIED"))
    with pytest.raises(PermissionDeniedError):
        connect().resolve("app", "n")
    # In sync it stops there; in async the others are under way at the same time.
    server.journal.assert_count(4 if face.is_async else 1)


@pytest.mark.parametrize(
    ("getter", "value", "wrong"),
    [
        ("get_str", "text", 1),
        ("get_int", 7, "7"),
        ("get_float", 0.5, "0.5"),
        ("get_float", 2, True),
        ("get_bool", True, 1),
        ("get_int", 3, 3.5),
    ],
    ids=repr,
)
def test_typed_getters_take_their_type_and_nothing_else(connect, server, getter, value, wrong):
    server.put("app", "right", value, env="production")
    server.put("app", "wrong", wrong, env="production")
    client = connect()
    assert getattr(client, getter)("app", "right") == value
    with pytest.raises(InvalidValueError) as caught:
        getattr(client, getter)("app", "wrong")
    assert (caught.value.namespace, caught.value.key) == ("app", "wrong")
    assert "expected" in caught.value.message


def test_get_value_validates_to_any_type_of_pydantics(connect_any, server):
    class Limits(pydantic.BaseModel):
        rps: int
        burst: int = 10

    server.put("app", "limits", {"rps": "5"}, env="production")
    client = connect_any()
    assert client.get_value("app", "limits", Limits) == Limits(rps=5)
    assert client.get_value("app", "limits", dict[str, int]) == {"rps": 5}
    assert client.get_value("app", "limits") == {"rps": "5"}
    assert client.get_json("app", "limits") == {"rps": "5"}


def test_a_json_value_is_the_callers_own_copy(connect, server):
    server.put("app", "n", {"list": [1]}, env="production")
    client = connect()
    client.get_json("app", "n")["list"].append(2)
    assert client.get_json("app", "n") == {"list": [1]}
    server.journal.assert_count(1)


# --- What is sent -------------------------------------------------------------------------------


def test_a_request_carries_token_user_environment_and_id(connect_any, server):
    client = connect_any(user="ann", headers={"X-Forwarded-Proto": "https"})
    client.set_config("app", "n", 1)
    client.list_configs("app")
    write, read = server.journal
    for seen in (write, read):
        assert seen.request.header("authorization") == f"Bearer {server.token('admin')}"
        assert seen.request.header("x-user-id") == "ann"
        assert seen.request.header("x-forwarded-proto") == "https"
        assert seen.request.header("x-request-id").startswith("req_")
        assert seen.request.header("user-agent").startswith("llm-config-sdk/")
    assert write.request_id != read.request_id
    assert read.request.target.endswith("?env=production")
    assert "?" not in write.request.target
    assert json.loads(write.request.body) == {"value": 1, "env": "production", "user": "ann"}


def test_the_user_of_one_call_stands_before_the_clients(connect_any, server):
    client = connect_any(user="ann")
    assert client.set_config("app", "n", 1, user="bob").metadata.created_by == "bob"
    assert server.journal[-1].request.header("x-user-id") == "bob"


def test_the_environment_is_development_unless_somebody_says_otherwise(face, server):
    client = face.client(server.url, token=server.token("admin"))
    client.set_config("app", "n", 1)
    assert server.entry("app", "n", env="development") is not None
    assert client.set_config("app", "n", 1, env="PROD").environment == "production"
    assert client.with_options(environment="stage").set_config("app", "n", 1).environment == "staging"


_WIRE_SAFE = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/%")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    namespace=st.from_regex(NAMESPACE_PATTERN, fullmatch=True).filter(lambda name: len(name) <= 256),
    key=st.from_regex(KEY_PATTERN, fullmatch=True).filter(lambda name: len(name) <= 128),
)
def test_any_valid_name_goes_to_its_own_entry_and_back(connect, server, namespace, key):
    client = connect(cache=None)
    written = client.set_config(namespace, key, key)
    assert (written.namespace, written.key) == (namespace, key)
    assert client.get_str(namespace, key) == key
    assert key in {entry.key for entry in client.list_configs(namespace)}
    assert client.get_history(namespace, key)
    assert client.delete_config(namespace, key) is None
    for seen in server.journal:
        assert (seen.namespace, seen.key) in {(namespace, key), (namespace, None)}
        assert set(seen.request.target.partition("?")[0].encode()) <= _WIRE_SAFE
    server.journal.clear()


# --- What is refused before it is sent ----------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (call.get_config("a b", "n"), InvalidNamespaceError),
        (call.get_config("", "n"), InvalidNamespaceError),
        (call.get_config(["a"], "n"), InvalidNamespaceError),
        (call.get_config("a" * 257, "n"), InvalidNamespaceError),
        (call.list_configs("../x"), InvalidNamespaceError),
        (call.get_config("a", ""), InvalidKeyError),
        (call.get_config("a", "x/y"), InvalidKeyError),
        (call.get_config("a", None), InvalidKeyError),
        (call.get_config("a", "n", env="nowhere"), ValidationError),
        (call.get_config("a", "n", env=["prod"]), ValidationError),
        (call.rollback("a", "n", 0), ValidationError),
        (call.rollback("a", "n", True), ValidationError),
        (call.rollback("a", "n", "1"), ValidationError),
        (call.set_config("a", "n", {1, 2}), InvalidValueError),
        (call.set_config("a", "n", float("nan")), InvalidValueError),
        (call.set_config("a", "n", "\ud800"), InvalidValueError),
        (call.set_config("a", "n", 5, secret=True), InvalidValueError),
        (call.set_config("a", "n", 5, expected_version=-1), ValidationError),
        (call.set_config("a", "n", 5, expected_version=1.5), ValidationError),
        (call.set_config("a", "n", 5, expected_version='1"\r\nX: y'), InvalidRequestError),
        (call.set_config("a", "n", 5, user="ann\r\nX-Role: admin"), InvalidRequestError),
        (call.set_config("a", "n", 5, idempotency_key="k\r\nX: y"), InvalidRequestError),
        (call.set_config("a", "n", 5, idempotency_key=""), InvalidRequestError),
        (call.get_config("a", "n", timeout=0), InvalidRequestError),
        (call.get_config("a", "n", timeout=float("nan")), InvalidRequestError),
        (call.request("BREW", "/"), InvalidRequestError),
        (call.request("GET", "health"), InvalidRequestError),
        (call.request("GET", "//other.example/x"), InvalidRequestError),
        (call.request("GET", "/a/../b"), InvalidRequestError),
        (call.request("GET", "/a/%2e%2E/b"), InvalidRequestError),
        (call.request("GET", "/a b"), InvalidRequestError),
        (call.request("GET", "/a\r\nX: y"), InvalidRequestError),
        (call.request("GET", "/a#b"), InvalidRequestError),
        (call.request("GET", "/ä"), InvalidRequestError),
        (call.with_options(headers={"X-A": "1\r\nX-B: 2"}), InvalidRequestError),
        (call.with_options(environment="nowhere"), ValidationError),
        (call.with_options(timeout=-1), InvalidRequestError),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused_before_it_is_sent(connect, server, wrong, expected):
    client = connect()
    method, args, options = wrong
    with pytest.raises(expected):
        getattr(client, method)(*args, **options)
    assert len(server.journal) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"token": "t\r\nX: y"},
        {"token": "t\n"},
        {"token": "tök"},
        {"token": ""},
        {"user": "a\nb"},
        {"headers": {"X-A": "1\r\nX-B: 2"}},
        {"headers": {"X-A\r\nX-B": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"X-A": 1}},
        {"headers": {"Host": "other"}},
        {"headers": {"content-length": "3"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"idempotency-key": "the same for every write"}},
        {"environment": "nowhere"},
        {"timeout": 0},
        {"timeout": "soon"},
        {"transport": "carrier pigeon"},
        {"max_in_flight": 0},
        {"verify": "/no/such/file.pem"},
        {"http_client": "no client"},
    ],
    ids=repr,
)
def test_a_client_that_cannot_work_is_not_made(face, options):
    with pytest.raises(InvalidRequestError) as caught:
        face.client("http://127.0.0.1:9", **options)
    assert "tök" not in str(caught.value)


def test_a_client_without_a_server_says_how_to_name_one(face, monkeypatch):
    monkeypatch.delenv("LLM_CONFIG_BASE_URL", raising=False)
    with pytest.raises(InvalidRequestError, match="LLM_CONFIG_BASE_URL"):
        face.client()


def test_a_client_of_the_other_colour_cannot_be_injected(face):
    other = "sync" if face.is_async else "asyncio"
    with ExitStack() as stack, pytest.raises(InvalidRequestError, match="http_client"):
        face.client("http://127.0.0.1:9", http_client=Face(f"{other}, injected httpx", stack).http_client())


# --- What a caller can catch --------------------------------------------------------------------


@pytest.mark.parametrize("family", [NotFoundError, ClientError, ConfigError, LLMConfigError])
def test_an_absent_entry_is_caught_by_class_and_by_family(connect, family):
    with pytest.raises(family) as caught:
        connect().get_config("app", "nothing")
    assert caught.value.is_not_found
    assert (caught.value.operation, caught.value.namespace, caught.value.key) == (
        "get_config",
        "app",
        "nothing",
    )
    assert caught.value.environment == "production"


def test_an_absent_version_is_told_from_an_absent_entry(connect_any, server):
    server.put("app", "n", 1, env="production")
    with pytest.raises(VersionNotFoundError):
        connect_any().rollback("app", "n", 99)


def test_a_version_that_moved_on_is_a_conflict(connect_any, server):
    server.put("app", "n", 1, env="production")
    client = connect_any()
    stale = client.get_config("app", "n")
    client.set_config("app", "n", 2, expected_version=1)
    for expected in (stale, stale.version, stale.etag):
        with pytest.raises(ConflictError):
            client.set_config("app", "n", 3, expected_version=expected)


def test_roles_are_told_apart(face, server):
    viewer = face.client(server.url, token=server.token("viewer"))
    with pytest.raises(PermissionDeniedError) as denied:
        viewer.set_config("app", "n", 1)
    assert denied.value.is_permission_denied
    with pytest.raises(UnauthorizedError) as unknown:
        face.client(server.url, token="who am I").get_config("app", "n")
    assert unknown.value.is_unauthorized
    with pytest.raises(UnauthorizedError):
        face.client(server.url).get_config("app", "n")


def test_invalid_data_that_only_the_server_can_judge_is_a_validation_failure(connect, server):
    server.script("POST /api/*", error("INVALID_VALUE"))
    with pytest.raises(ValidationFailure) as caught:
        connect().set_config("app", "n", 1)
    assert isinstance(caught.value, InvalidValueError)


def test_the_servers_request_id_is_the_one_to_quote(connect, server):
    body = {"error": {"code": "NOT_FOUND", "message": "Configuration not found", "request_id": "req_theirs"}}
    server.script(GET, respond(404, body))
    with pytest.raises(NotFoundError) as caught:
        connect().get_config("app", "n")
    assert caught.value.request_id == "req_theirs"


@pytest.mark.parametrize(
    "step",
    [respond(404), html(404), respond(404, {"detail": "Not Found"}), html(200)],
    ids=["empty", "a page", "another service", "a page for everything"],
)
def test_a_wrong_base_url_never_reads_as_absent(connect_any, server, step):
    server.script(GET, step, repeat="last")
    with pytest.raises((NotFoundError, ResponseDecodeError)) as caught:
        connect_any().get_config("app", "n", default="hides the mistake")
    assert not caught.value.is_not_found


def test_a_page_in_the_place_of_an_acknowledgement_is_no_deletion(connect, server):
    server.script("DELETE /api/*", html(200))
    with pytest.raises(ResponseDecodeError):
        connect().delete_config("app", "n")


def test_another_entry_than_the_one_asked_for_is_refused(connect, server):
    server.script(GET, respond(200, wire_entry(key="other")))
    with pytest.raises(ResponseDecodeError, match="another entry"):
        connect().get_config("app", "n")


# --- default= and fallback= ---------------------------------------------------------------------


def test_a_default_answers_for_an_absent_entry(connect_any):
    client, sentinel = connect_any(), object()
    found = client.get_config("app", "n", default={"a": 1})
    assert (found.value, found.source, found.version) == ({"a": 1}, "default", 0)
    assert found.error.is_not_found
    assert client.get_value("app", "n", default=sentinel) is sentinel
    assert client.get_int("app", "n", default=None) is None
    assert client.get_str("app", "n", default="x") == "x"


@pytest.mark.parametrize(
    "code", ["PERMISSION_DENIED", "UNAUTHORIZED", "INVALID_REQUEST", "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"]
)
def test_a_default_answers_for_nothing_else(connect, server, code):
    server.script(GET, error(code), repeat="last")
    with pytest.raises(LLMConfigError, match=code):
        connect().get_config("app", "n", default=1)


def test_a_default_does_not_stand_in_for_an_unknown_user(connect, server):
    server.script(GET, error(variant="rbac.UserNotFound"), repeat="last")
    with pytest.raises(NotFoundError):
        connect().get_config("app", "n", default=1)


def test_a_fallback_answers_in_an_outage_and_says_so(connect_any, server, caplog):
    client = connect_any()
    server.stop()
    found = client.get_config("app", "n", fallback=[1])
    assert (found.value, found.source) == ([1], "default")
    assert found.error.is_transient
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "answering with the fallback" in caplog.text
    assert client.get_int("app", "n", fallback=5) == 5


@pytest.mark.parametrize("code", ["NOT_FOUND", "PERMISSION_DENIED", "UNAUTHORIZED", "VALIDATION_ERROR"])
def test_a_fallback_hides_no_answer(connect, server, code):
    server.script(GET, error(code), repeat="last")
    with pytest.raises(LLMConfigError, match=code):
        connect(fallback={("app", "n"): 1}).get_config("app", "n", fallback=1)


def test_the_clients_fallback_answers_unless_the_call_has_its_own(connect, server):
    client = connect(fallback={("app", "n"): {"a": []}})
    server.stop()
    client.get_json("app", "n")["a"].append("changed")
    assert client.get_json("app", "n") == {"a": []}
    assert client.get_json("app", "n", fallback=2) == 2
    with pytest.raises(LLMConfigError):
        client.get_json("app", "other")


def test_a_fresh_read_is_answered_by_no_fallback_of_the_clients(connect, server):
    client = connect(fallback={("app", "n"): 1})
    server.stop()
    with pytest.raises(LLMConfigError):
        client.get_config("app", "n", fresh=True)


def test_a_default_is_not_kept(connect, server):
    client = connect()
    assert client.get_config("app", "n", default=1).value == 1
    server.put("app", "n", 2, env="production")
    assert client.get_config("app", "n", default=1).value == 2


# --- Secrets ------------------------------------------------------------------------------------


def test_a_secret_comes_back_wrapped_and_is_shown_nowhere(connect_any, server, caplog):
    caplog.set_level(logging.DEBUG)
    client = connect_any()
    written = client.set_config("app", "key", "s3cr3t-value", secret=True)
    read = client.get_config("app", "key")
    for entry in (written, read):
        assert entry.secret
        assert isinstance(entry.value, SecretStr)
        assert entry.value.get_secret_value() == "s3cr3t-value", (
            "not the placeholder that a write answers with"
        )
    assert client.get_str("app", "key") == "s3cr3t-value"
    assert isinstance(client.get_value("app", "key", SecretStr), SecretStr)
    with pytest.raises(InvalidValueError) as caught:
        client.get_int("app", "key")
    history = client.get_history("app", "key")
    shown = f"{written!r} {written} {read!r} {caught.value!r} {caught.value} {history!r} {caplog.text}"
    assert "s3cr3t" not in shown
    assert history[0].is_redacted


def test_a_secret_str_is_written_as_a_secret(connect, server):
    connect().set_config("app", "key", SecretStr("s3cr3t"))
    assert "s3cr3t" not in str(server.entry("app", "key", env="production"))


@pytest.mark.parametrize(
    "value",
    [
        "<encrypted>",
        "[ENCRYPTED]",
        {"algorithm": "aes-256-gcm", "nonce": "00", "ciphertext": "ff", "key_version": 1},
    ],
    ids=["placeholder", "redacted", "ciphertext"],
)
def test_ciphertext_is_never_handed_out_as_the_secret(connect, server, value):
    server.script(GET, respond(200, wire_entry(value=value)), repeat="last")
    client = connect()
    for read in (client.get_config, client.get_str, client.get_config):
        with pytest.raises(DecryptionError) as caught:
            read("app", "n")
        assert caught.value.is_critical
    server.journal.assert_count(3)


def test_what_this_client_wrote_as_a_secret_stays_one_on_a_server_that_does_not_say(connect, server):
    client = connect()
    server.script("POST /api/*", respond(200, wire_entry(value="<encrypted>")))
    client.set_config("app", "n", "s3cr3t", secret=True)
    server.script(GET, [respond(200, wire_entry(value="s3cr3t")), respond(200, [wire_entry(value="s3cr3t")])])
    assert isinstance(client.get_config("app", "n").value, SecretStr)
    assert isinstance(client.list_configs("app")[0].value, SecretStr)


def test_a_plain_value_written_over_a_secret_is_plain_again(connect, server):
    client = connect()
    client.set_config("app", "n", "s3cr3t", secret=True)
    server.script("POST /api/*", respond(200, wire_entry(value="open")))
    client.set_config("app", "n", "open")
    server.script(GET, respond(200, wire_entry(value="open")))
    assert client.get_config("app", "n").value == "open"


def test_a_token_is_shown_nowhere(face, server, caplog):
    caplog.set_level(logging.DEBUG)
    client = face.client(server.url, token=SecretStr("t0k3n-of-mine"))
    with pytest.raises(UnauthorizedError) as caught:
        client.get_config("app", "n")
    shown = f"{client.client!r} {caught.value!r} {caught.value} {caught.value.response!r} {caplog.text}"
    assert "t0k3n" not in shown


# --- expected_version on a server that ignores it -----------------------------------------------


def test_a_server_that_ignores_expected_version_is_told_on(connect, server, caplog):
    server.script("POST /api/*", respond(200, wire_entry(version=7)))
    assert connect().set_config("app", "n", 1, expected_version=3).version == 7
    assert "ignored expected_version=3 and wrote version 7" in caplog.text


@pytest.mark.parametrize(
    ("reply", "expected_version"),
    [
        pytest.param(respond(200, wire_entry(version=4)), 3, id="the version follows"),
        pytest.param(
            respond(200, wire_entry(version=7), headers={"etag": '"x"'}), 3, id="it has entity tags"
        ),
        pytest.param(respond(200, wire_entry(version=7)), None, id="nothing was expected"),
    ],
)
def test_nobody_is_suspected_without_reason(connect, server, caplog, reply, expected_version):
    server.script("POST /api/*", reply)
    connect().set_config("app", "n", 1, expected_version=expected_version)
    assert caplog.records == []


# --- Closing and copying ------------------------------------------------------------------------


def test_a_closed_client_refuses_to_work_even_from_its_cache(connect_any, server):
    server.put("app", "n", 1, env="production")
    client = connect_any()
    client.get_config("app", "n")
    client.close()
    client.close()
    calls = (
        lambda: client.get_config("app", "n"),
        lambda: client.set_config("app", "n", 1),
        lambda: client.list_configs("app"),
        lambda: client.request("GET", "/health"),
        client.health_check,
        client.with_options,
    )
    for work in calls:
        with pytest.raises(InvalidRequestError, match="closed"):
            work()
    server.journal.assert_count(1)


def test_a_copy_shares_cache_and_breakers_and_leaves_the_original_open(connect_any, server):
    server.put("app", "n", 1, env="production")
    client = connect_any()
    client.get_config("app", "n")
    copy = client.with_options(timeout=3, headers={"X-Tenant": "7"})
    assert copy.get_config("app", "n").source == "cache"
    copy.get_config("app", "n", fresh=True)
    server.journal.assert_count(1, headers={"x-tenant": "7"})
    copy.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        copy.get_config("app", "n")
    assert client.get_config("app", "n", fresh=True).value == 1
    assert server.journal[-1].request.header("x-tenant") is None


def test_a_copy_is_closed_with_its_original(connect):
    client = connect()
    copy = client.with_options(timeout=3)
    client.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        copy.get_config("app", "n")


def test_a_copy_with_another_cache_shares_the_breakers(connect, server):
    client = connect()
    server.stop()
    for _ in range(2):
        with pytest.raises(LLMConfigError):
            client.get_config("app", "n")
    with pytest.raises(LLMConfigError, match="not asked"):
        client.with_options(cache=None).get_config("app", "n")
    with pytest.raises(LLMConfigError, match="failed while connecting"):
        client.with_options(resilience=None).get_config("app", "n")


def test_a_copy_ignores_what_the_environment_says_by_now(connect, server, monkeypatch):
    client = connect()
    monkeypatch.setenv("LLM_CONFIG_USER", "mallory")
    monkeypatch.setenv("LLM_CONFIG_TIMEOUT", "nonsense")
    client.with_options(timeout=3).list_configs("app")
    assert server.journal[-1].request.header("x-user-id") is None


def test_the_client_shows_where_it_talks_to(connect, server):
    client = connect()
    assert repr(client.client).endswith(f"ConfigClient('{server.url}', environment='production')")
    assert repr(UNSET) == "UNSET"
