"""The vault and the audit log in the profile `guide`."""

import base64

import pytest

from llm_config_mock_server import MockServer
from mock_server.envelopes import error_of, variant_of

ITEM = "/api/v1/configs/app%2Fllm/key"
SECRET = {"value": "s3cr3t", "env": "dev", "secret": True}
KEYS = "/api/v1/vault/keys"
EVENTS = "/api/v1/audit/events"


def test_what_is_encrypted_is_decrypted(client):
    sealed = client.post("/api/v1/vault/encrypt", json={"plaintext": "zażółć"}).json()
    assert set(sealed) == {"algorithm", "nonce", "ciphertext", "key_version"}
    assert client.post("/api/v1/vault/decrypt", json=sealed).json() == {"plaintext": "zażółć"}


def test_a_changed_byte_fails_to_decrypt(client):
    sealed = client.post("/api/v1/vault/encrypt", json={"plaintext": "x"}).json()
    flipped = f"{int(sealed['ciphertext'][:2], 16) ^ 1:02x}{sealed['ciphertext'][2:]}"
    for change in (
        {"ciphertext": flipped},
        {"nonce": "00" * 12},
        {"key_version": 9},
        {"nonce": "zz"},
        {"key_version": "1"},
    ):
        reply = client.post("/api/v1/vault/decrypt", json={**sealed, **change})
        variant_of(reply, 500, "DECRYPTION_ERROR", "crypto", "DecryptionFailed")
        assert reply.json()["error"]["retriable"] is False


def test_what_another_key_sealed_fails_to_decrypt(client, client_as):
    with MockServer(seed=8) as other:
        sealed = client_as(of=other).post("/api/v1/vault/encrypt", json={"plaintext": "x"}).json()
    reply = client.post("/api/v1/vault/decrypt", json=sealed)
    variant_of(reply, 500, "DECRYPTION_ERROR", "crypto", "DecryptionFailed")


def test_an_algorithm_that_nobody_knows_cannot_be_opened(client):
    sealed = client.post("/api/v1/vault/encrypt", json={"plaintext": "x"}).json()
    reply = client.post("/api/v1/vault/decrypt", json={**sealed, "algorithm": "rot13"})
    variant_of(reply, 422, "VALIDATION_ERROR", "crypto", "InvalidAlgorithm")


def test_a_key_of_the_wrong_length_is_invalid_but_not_the_code_invalid_key(client):
    reply = client.post(KEYS, json={"material": base64.b64encode(b"x" * 16).decode()})
    variant_of(reply, 422, "VALIDATION_ERROR", "crypto", "InvalidKey")


def test_an_unknown_algorithm_is_invalid(client):
    variant_of(
        client.post(KEYS, json={"algorithm": "rot13"}), 422, "VALIDATION_ERROR", "crypto", "InvalidAlgorithm"
    )


def test_material_that_is_no_base64_fails_to_become_a_key(client):
    reply = client.post(KEYS, json={"material": "not base64!"})
    variant_of(reply, 500, "ENCRYPTION_ERROR", "crypto", "KeyGenerationFailed")


def test_without_entropy_no_key_is_made(server, client):
    server.conditions["entropy"] = "unavailable"
    variant_of(client.post(KEYS, json={}), 500, "ENCRYPTION_ERROR", "crypto", "KeyGenerationFailed")


def test_a_plaintext_over_the_limit_fails_to_encrypt(client):
    reply = client.post("/api/v1/vault/encrypt", json={"plaintext": "x" * 65_537})
    variant_of(reply, 500, "ENCRYPTION_ERROR", "crypto", "EncryptionFailed")


def test_a_vault_that_panics_is_an_internal_error(server, client):
    server.conditions["vault"] = "panic"
    variant_of(client.post(KEYS, json={}), 500, "INTERNAL_ERROR", "crypto", "InternalError")


def test_a_secret_without_an_active_key_cannot_be_written(server, client):
    assert client.delete(f"{KEYS}/active").status_code == 204
    variant_of(client.post(ITEM, json=SECRET), 500, "ENCRYPTION_ERROR", "config", "EncryptionError")
    assert server.entry("app/llm", "key") is None
    error_of(client.delete(f"{KEYS}/active"), 404, "NOT_FOUND")


def test_a_server_without_a_key_cannot_write_secrets(client_as):
    with MockServer(encryption_key=None) as keyless:
        reply = client_as(of=keyless).post(ITEM, json=SECRET)
        variant_of(reply, 500, "ENCRYPTION_ERROR", "config", "EncryptionError")


def test_a_rotation_that_leaves_secrets_behind_makes_them_unreadable_once_the_key_is_gone(client):
    client.post(ITEM, json=SECRET)
    assert client.post("/api/v1/vault/rotate", json={"reencrypt": False}).json()["reencrypted"] == 0
    assert client.get(ITEM).json()["value"] == "s3cr3t"
    assert client.delete(f"{KEYS}/1").status_code == 204
    variant_of(client.get(ITEM), 500, "DECRYPTION_ERROR", "config", "DecryptionError")


def test_a_rotation_takes_secrets_along(client):
    version = client.post(ITEM, json=SECRET).json()["version"]
    assert client.post("/api/v1/vault/rotate", json={}).json()["reencrypted"] == 1
    assert client.delete(f"{KEYS}/1").status_code == 204
    entry = client.get(ITEM).json()
    assert (entry["value"], entry["version"]) == ("s3cr3t", version)
    assert client.get(KEYS).json() == [{"version": 2, "algorithm": "aes-256-gcm", "active": True}]


def test_only_an_admin_manages_keys(client_as):
    variant_of(client_as("editor").post(KEYS, json={}), 403, "PERMISSION_DENIED", "rbac", "AccessDenied")


# --- Audit ----------------------------------------------------------------------------------------


def test_every_change_and_denial_is_recorded(client, client_as):
    written = client.post(
        ITEM, json={"value": 1, "env": "prod"}, headers={"x-user-id": "u-1", "x-request-id": "r-1"}
    )
    assert written.status_code == 200
    client_as("viewer").delete(ITEM)
    client.delete(ITEM, params={"env": "prod"})
    events = client.get(EVENTS).json()
    assert [(event["type"], event["user"], event["outcome"]) for event in events] == [
        ("config.set", "admin", "done"),
        ("access.denied", "viewer", "denied"),
        ("config.delete", "admin", "done"),
    ]
    assert [event["number"] for event in events] == [1, 2, 3]
    first = events[0]
    assert (first["user_id"], first["request_id"], first["environment"]) == ("u-1", "r-1", "production")
    assert first["resource"] == "app/llm/key"


def test_events_are_found_by_type_user_and_time(client, client_as):
    client.post(ITEM, json={"value": 1, "env": "dev"})
    client_as("editor").post(ITEM, json={"value": 2, "env": "dev"})
    first, second = client.get(EVENTS).json()
    assert client.get(EVENTS, params={"user": "editor"}).json() == [second]
    assert client.get(EVENTS, params={"type": "config.delete"}).json() == []
    assert client.get(EVENTS, params={"from": "2001-01-01T00:00:00Z", "to": "2001-01-02"}).json() == []
    assert client.get(EVENTS, params={"from": "2001-01-01", "to": "2999-01-01"}).json() == [first, second]


@pytest.mark.parametrize("query", ["type=banana", "colour=red"])
def test_a_query_that_is_none_is_invalid(client, query):
    variant_of(client.get(f"{EVENTS}?{query}"), 400, "INVALID_REQUEST", "audit", "InvalidQuery")


@pytest.mark.parametrize("query", ["from=2025-01-01&to=2024-01-01", "from=yesterday", "to="])
def test_a_time_range_that_is_none_is_invalid(client, query):
    variant_of(client.get(f"{EVENTS}?{query}"), 422, "VALIDATION_ERROR", "audit", "InvalidTimeRange")


@pytest.mark.parametrize(
    ("kind", "code", "variant"),
    [
        ("unavailable", "STORAGE_ERROR", "Storage"),
        ("StorageFull", "STORAGE_ERROR", "IoError"),
        ("panic", "INTERNAL_ERROR", "InternalError"),
    ],
)
def test_an_audit_log_that_is_not_well_cannot_be_read(server, client, kind, code, variant):
    server.conditions["audit"] = kind
    variant_of(client.get(EVENTS), 500, code, "audit", variant)


def test_only_who_may_reads_the_audit_log(client_as):
    assert client_as("auditor").get(EVENTS).status_code == 200
    variant_of(client_as("editor").get(EVENTS), 403, "PERMISSION_DENIED", "rbac", "AccessDenied")
