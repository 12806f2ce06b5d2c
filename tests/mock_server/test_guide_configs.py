"""The routes of configs in the profile `guide`, over a real socket."""

import json

import pytest

from llm_config_mock_server import MockServer
from llm_config_sdk.contract import Metadata
from mock_server.envelopes import error_of, variant_of

ITEM = "/api/v1/configs/app%2Fllm/model"
LIST = "/api/v1/configs/app%2Fllm"


def put(client, value, *, path=ITEM, env="development", headers=None, **body):
    reply = client.post(path, json={"value": value, "env": env, **body}, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_health_needs_no_token_and_is_at_the_root(client_as):
    anonymous = client_as(None)
    assert anonymous.get("/health").json() == {
        "status": "healthy",
        "service": "llm-config-manager",
        "version": "0.5.0",
    }
    assert error_of(anonymous.get("/api/v1/health"), 404, "NOT_FOUND")["details"] == {
        "route": "/api/v1/health"
    }


def test_an_entry_is_written_and_read_back_with_all_its_fields(client):
    written = put(
        client,
        {"name": "gpt-4", "k": [1, 2.5, None, True]},
        user="ann",
        tags=["llm"],
        description="The model",
    )
    read = client.get(ITEM, params={"env": "dev"}).json()
    assert read == written
    assert read["namespace"] == "app/llm"
    assert read["key"] == "model"
    assert read["value"] == {"name": "gpt-4", "k": [1, 2.5, None, True]}
    assert read["environment"] == "development"
    assert read["version"] == 1
    metadata = Metadata.model_validate(read["metadata"])
    assert (metadata.created_by, metadata.updated_by) == ("ann", "ann")
    assert metadata.tags == ("llm",)
    assert metadata.description == "The model"


def test_an_update_keeps_id_and_creation_and_counts_the_version_up(client):
    first = put(client, 1, user="ann", tags=["a"], description="d")
    second = put(client, 2, user="bob")
    assert second["id"] == first["id"]
    assert second["version"] == 2
    assert second["metadata"]["created_by"] == "ann"
    assert second["metadata"]["created_at"] == first["metadata"]["created_at"]
    assert second["metadata"]["updated_by"] == "bob"
    assert second["metadata"]["updated_at"] > first["metadata"]["updated_at"]
    assert second["metadata"]["tags"] == ["a"], "tags that are not sent are kept"
    assert second["metadata"]["description"] == "d"


@pytest.mark.parametrize(
    "value", [None, True, 0, -1, 2**70, 1.5, "", "zażółć \U0001f600", [], {}, {"a": {"b": [1]}}]
)
def test_any_json_comes_back_as_it_was(client, value):
    put(client, value)
    assert client.get(ITEM).json()["value"] == value


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("dev", "development"),
        ("PROD", "production"),
        ("Stage", "staging"),
        ("base", "base"),
        ("edge", "edge"),
    ],
)
def test_environments_take_aliases_in_any_letter_case(client, name, canonical):
    assert put(client, 1, env=name)["environment"] == canonical
    assert client.get(ITEM, params={"env": canonical}).json()["environment"] == canonical


def test_the_default_environment_is_development(client):
    put(client, 1, env="development")
    assert client.get(ITEM).json()["environment"] == "development"


def test_environments_are_apart(client):
    put(client, "d", env="dev")
    put(client, "p", env="prod")
    assert client.get(ITEM, params={"env": "dev"}).json()["value"] == "d"
    assert client.get(ITEM, params={"env": "prod"}).json()["value"] == "p"
    variant_of(client.get(ITEM, params={"env": "edge"}), 404, "NOT_FOUND", "config", "NotFound")


def test_overrides_are_resolved_where_they_are_asked_for(client):
    put(client, "base", env="base")
    put(client, "staging", env="staging")
    asked = {"with_overrides": "true"}
    assert client.get(ITEM, params={"env": "prod", **asked}).json()["value"] == "staging"
    assert client.get(ITEM, params={"env": "dev", **asked}).json()["environment"] == "base"
    assert client.get(ITEM, params={"env": "edge", **asked}).json()["value"] == "base"
    assert client.get(ITEM, params={"env": "prod"}).status_code == 404


def test_a_list_has_the_namespace_alone(client):
    put(client, 1, path="/api/v1/configs/app%2Fllm/b")
    put(client, 2, path="/api/v1/configs/app%2Fllm/a")
    put(client, 3, path="/api/v1/configs/app%2Fllm%2Fdeep/c")
    put(client, 4, path="/api/v1/configs/app%2Fllm/d", env="prod")
    assert [entry["key"] for entry in client.get(LIST).json()] == ["a", "b"]
    assert client.get("/api/v1/configs/nobody").json() == []


def test_history_is_newest_first_and_survives_a_delete(client):
    first = put(client, "one", user="ann")
    put(client, "two", user="bob")
    assert client.delete(ITEM).status_code == 204
    again = put(client, "three")
    assert again["version"] == 1
    assert again["id"] != first["id"]
    history = client.get(f"{ITEM}/history").json()
    assert [(item["version"], item["value"]) for item in history] == [(1, "three"), (2, "two"), (1, "one")]
    assert [item["created_by"] for item in history] == ["admin", "bob", "ann"]
    assert history[0]["change_description"] == "Configuration updated"
    assert client.get("/api/v1/configs/app%2Fllm/nothing/history").json() == []


def test_a_rollback_is_a_new_version_with_the_old_value(client):
    put(client, "one")
    put(client, "two")
    back = client.post(f"{ITEM}/rollback/1?env=dev").json()
    assert (back["version"], back["value"]) == (3, "one")
    assert client.get(ITEM).json() == back
    assert client.get(f"{ITEM}/history").json()[0]["change_description"] == "Rollback to version 1"


def test_a_rollback_brings_a_deleted_entry_back_above_every_version(client):
    first = put(client, "one")
    put(client, "two")
    client.delete(ITEM)
    back = client.post(f"{ITEM}/rollback/2").json()
    assert (back["version"], back["value"]) == (3, "two")
    assert back["id"] != first["id"]


def test_a_delete_is_empty_and_only_works_once(client):
    put(client, 1)
    gone = client.delete(ITEM, params={"env": "dev"})
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-length" not in gone.headers
    details = variant_of(client.delete(ITEM), 404, "NOT_FOUND", "config", "NotFound")
    assert (details["namespace"], details["key"], details["env"]) == ("app/llm", "model", "development")


# --- Secrets ------------------------------------------------------------------------------------


def test_a_secret_is_read_in_plain_flagged_and_redacted_in_history(server, client):
    written = put(client, "s3cr3t", secret=True)
    assert (written["value"], written["secret"]) == ("<encrypted>", True)
    read = client.get(ITEM).json()
    assert (read["value"], read["secret"]) == ("s3cr3t", True)
    assert client.get(LIST).json()[0]["value"] == "s3cr3t"
    history = client.get(f"{ITEM}/history")
    assert history.json()[0]["value"] == "[ENCRYPTED]"
    assert "s3cr3t" not in history.text
    stored = server.entry("app/llm", "model")
    assert stored["value"]["algorithm"] == "aes-256-gcm"
    assert "s3cr3t" not in json.dumps(stored)


def test_a_rollback_to_a_secret_keeps_it_one(client):
    put(client, "s3cr3t", secret=True)
    put(client, "plain")
    assert client.post(f"{ITEM}/rollback/1").json()["value"] == "<encrypted>"
    assert client.get(ITEM).json()["value"] == "s3cr3t"


def test_the_field_is_secret_is_ignored(client):
    assert put(client, "open", is_secret=True)["secret"] is False


# --- Refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{"env": "dev"}, {"value": 1}])
def test_a_missing_field_is_a_validation_error(client, body):
    details = variant_of(client.post(ITEM, json=body), 422, "VALIDATION_ERROR", "config", "ValidationError")
    assert details["field"] in {"value", "env"}


@pytest.mark.parametrize(
    "body",
    [
        {"value": 1, "env": "mars"},
        {"value": 1, "env": 5},
        {"value": 1, "env": None},
        {"value": 1, "env": "dev", "user": 5},
        {"value": "x", "env": "dev", "secret": "yes"},
        {"value": 1, "env": "dev", "tags": [1]},
        {"value": 1, "env": "dev", "tags": "a"},
        {"value": 1, "env": "dev", "description": []},
        [],
        "text",
        None,
    ],
)
def test_a_field_of_the_wrong_type_is_a_validation_error(client, body):
    variant_of(
        client.post(ITEM, content=json.dumps(body), headers={"content-type": "application/json"}),
        422,
        "VALIDATION_ERROR",
        "config",
        "ValidationError",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"value": NaN, "env": "dev"}',
        b'{"value": "\\ud800", "env": "dev"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_is_a_bad_request(client, body):
    reply = client.post(ITEM, content=body, headers={"content-type": "application/json"})
    assert "module" not in error_of(reply, 400, "INVALID_REQUEST")["details"]


@pytest.mark.parametrize("namespace", ["a.b", "a%20b", "%C3%A9", "x" * 257, ""])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_bad_namespace_is_refused(client, namespace, method):
    body = {"json": {"value": 1, "env": "dev"}} if method == "POST" else {}
    reply = client.request(method, f"/api/v1/configs/{namespace}/k", **body)
    variant_of(reply, 422, "INVALID_NAMESPACE", "config", "InvalidNamespace")


@pytest.mark.parametrize("key", ["a%2Fb", "a%20b", "x" * 129, "%40"])
def test_a_bad_key_is_refused(client, key):
    details = variant_of(client.get(f"/api/v1/configs/app/{key}"), 422, "INVALID_KEY", "config", "InvalidKey")
    assert details["field"] == "key"


def test_a_secret_that_is_no_string_is_refused(client):
    reply = client.post(ITEM, json={"value": 5, "env": "dev", "secret": True})
    variant_of(reply, 422, "INVALID_VALUE", "config", "InvalidValue")
    assert reply.json()["error"]["message"] == "Secret value must be a string"


def test_a_value_over_the_limit_is_refused(client_as):
    with MockServer(value_max_bytes=10) as small:
        client = client_as(of=small)
        put(client, "12345678")
        reply = client.post(ITEM, json={"value": "123456789", "env": "dev"})
        variant_of(reply, 422, "INVALID_VALUE", "config", "InvalidValue")
        assert client.get(ITEM).json()["version"] == 1


def test_an_unknown_environment_is_refused(client):
    details = variant_of(
        client.get(ITEM, params={"env": "mars"}), 422, "VALIDATION_ERROR", "config", "ValidationError"
    )
    assert details["field"] == "env"


def test_a_version_that_never_was_is_not_found(client):
    put(client, 1)
    details = variant_of(
        client.post(f"{ITEM}/rollback/99"), 404, "VERSION_NOT_FOUND", "config", "VersionNotFound"
    )
    assert details["version"] == 99
    variant_of(client.post("/api/v1/configs/app/none/rollback/1"), 404, "NOT_FOUND", "config", "NotFound")


@pytest.mark.parametrize("version", ["x", "-1", "1.5", str(2**64), "%D9%A1"])
def test_a_version_that_is_no_number_is_a_bad_request(client, version):
    error_of(client.post(f"{ITEM}/rollback/{version}"), 400, "INVALID_REQUEST")


def test_a_parameter_given_twice_is_a_bad_request(client):
    error_of(client.get(f"{ITEM}?env=dev&env=prod"), 400, "INVALID_REQUEST")


# --- Concurrency --------------------------------------------------------------------------------


def test_the_etag_is_id_and_version(client):
    entry = put(client, 1)
    reply = client.get(ITEM)
    assert reply.headers["etag"] == f'"{entry["id"]}.1"'
    assert put(client, 2)["version"] == 2
    assert client.get(ITEM).headers["etag"] == f'"{entry["id"]}.2"'


@pytest.mark.parametrize("form", ["{etag}", "1", '"1"', "*", '"other.1", {etag}'])
def test_if_match_takes_the_etag_or_the_version(client, form):
    entry = put(client, 1)
    etag = f'"{entry["id"]}.1"'
    assert put(client, 2, headers={"if-match": form.format(etag=etag)})["version"] == 2


@pytest.mark.parametrize("act", ["set", "delete", "rollback"])
def test_another_version_is_a_conflict_and_changes_nothing(client, act):
    put(client, 1)
    put(client, 2)
    headers = {"if-match": "1"}
    if act == "set":
        reply = client.post(ITEM, json={"value": 3, "env": "dev"}, headers=headers)
    elif act == "delete":
        reply = client.delete(ITEM, headers=headers)
    else:
        reply = client.post(f"{ITEM}/rollback/1", headers=headers)
    error = error_of(reply, 409, "CONFLICT")
    assert error["retriable"] is False
    assert error["details"]["actual_version"] == 2
    assert client.get(ITEM).json()["version"] == 2


def test_if_match_on_what_is_not_there_is_a_conflict(client):
    error_of(client.post(ITEM, json={"value": 3, "env": "dev"}, headers={"if-match": "*"}), 409, "CONFLICT")


def test_if_none_match_star_creates_and_never_overwrites(client):
    headers = {"if-none-match": "*"}
    assert put(client, 1, headers=headers)["version"] == 1
    error_of(client.post(ITEM, json={"value": 2, "env": "dev"}, headers=headers), 409, "CONFLICT")


@pytest.mark.parametrize("path", [ITEM, LIST])
def test_what_has_not_changed_is_not_sent_again(client, path):
    put(client, 1)
    etag = client.get(path).headers["etag"]
    for validator in (etag, f'W/{etag}, "x"', "*"):
        same = client.get(path, headers={"if-none-match": validator})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    put(client, 2)
    changed = client.get(path, headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


# --- Idempotency --------------------------------------------------------------------------------


def test_a_repeated_write_is_answered_alike_and_takes_effect_once(client):
    headers = {"idempotency-key": "k1"}
    first = client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers)
    second = client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers)
    assert second.json() == first.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(client.get(f"{ITEM}/history").json()) == 1


def test_a_repeated_rollback_takes_effect_once(client):
    put(client, 1)
    for _ in range(2):
        assert client.post(f"{ITEM}/rollback/1", headers={"idempotency-key": "r"}).json()["version"] == 2
    assert len(client.get(f"{ITEM}/history").json()) == 2


def test_a_key_used_for_another_body_is_refused(client):
    headers = {"idempotency-key": "k1"}
    put(client, 1, headers=headers)
    reply = client.post(ITEM, json={"value": 2, "env": "dev"}, headers=headers)
    assert error_of(reply, 422, "VALIDATION_ERROR")["details"]["header"] == "Idempotency-Key"


def test_keys_of_different_users_are_apart(client, client_as):
    headers = {"idempotency-key": "k1"}
    put(client, 1, headers=headers)
    assert put(client_as("editor"), 2, headers=headers)["version"] == 2


def test_a_refused_write_does_not_use_its_key_up(client):
    headers = {"idempotency-key": "k1"}
    assert client.post(ITEM, json={"value": 1, "env": "mars"}, headers=headers).status_code == 422
    assert put(client, 1, headers=headers)["version"] == 1


def test_a_request_id_is_kept_or_made(client):
    assert client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = client.get("/health").headers["x-request-id"]
    assert made.startswith("req_")
    assert client.get("/health").headers["x-request-id"] != made
    assert (
        client.get("/health", headers={"x-request-id": "a b\tc"}).headers["x-request-id"].startswith("req_")
    )
