"""Every variant of the guide's five error enums, caused by requests, never scripted, and caught as its class."""

# ruff: noqa: E501 - a variant and how it is caused stand in one row

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_config_mock_server import MockServer
from llm_config_sdk import AsyncConfigClient, ConfigClient, errors
from llm_config_sdk.contract import VARIANTS, ErrorCategory

TAXONOMY = json.loads((Path(__file__).parents[1] / "sdk" / "fixtures" / "error_taxonomy.json").read_text())
NAMESPACE, KEY = "app/llm", "model"
ITEM = "/api/v1/configs/app%2Fllm/model"
CACHED = "/api/v1/cache/entries/app%2Fllm/model"
RECORD = "/api/v1/admin/records/app%2Fllm/model"
KEYS, EVENTS, RBAC = "/api/v1/vault/keys", "/api/v1/audit/events", "/api/v1/rbac"
BODY = {"value": 1, "env": "dev"}
SECRET = {"value": "s3cr3t", "env": "dev", "secret": True}

FAMILIES = {
    "config": errors.ConfigError,
    "rbac": errors.RbacError,
    "crypto": errors.CryptoError,
    "audit": errors.AuditError,
    "cache": errors.CacheError,
}


def no_steps(_server: MockServer, _admin: ConfigClient) -> None:
    """Nothing has to happen before."""


def requests(*sent: tuple[str, str, object]) -> Callable[[MockServer, ConfigClient], None]:
    """Send these requests as an admin first."""

    def prepare(_server: MockServer, admin: ConfigClient) -> None:
        for method, path, body in sent:
            admin.request(method, path, json=body)

    return prepare


def condition(component: str, kind: str) -> Callable[[MockServer, ConfigClient], None]:
    """Bring a component into a condition first, over HTTP."""
    return requests(("PUT", f"/api/v1/admin/conditions/{component}", {"kind": kind}))


@dataclass(frozen=True)
class Row:
    """How one variant is caused.

    Args:
        name: The module and the variant.
        method: Of the request that meets it.
        path: Of the request that meets it.
        body: Its JSON.
        prepare: What happens before.
        error: The class it is caught as.
        kind: The I/O error's kind.
        role: Who asks.
        scope: Where that role applies.
        server: What the server is made with.
    """

    name: str
    method: str
    path: str
    error: type[errors.LLMConfigError]
    body: object = None
    prepare: Callable[[MockServer, ConfigClient], None] = no_steps
    kind: str | None = None
    role: str = "admin"
    scope: str = "**"
    server: tuple[tuple[str, Any], ...] = ()


CYCLE = requests(
    ("PUT", f"{RBAC}/roles/one", {"inherits": ["two"]}),
    ("PUT", f"{RBAC}/roles/two", {"inherits": ["one"]}),
)
LOST_KEY = requests(
    ("POST", ITEM, SECRET),
    ("POST", "/api/v1/vault/rotate", {"reencrypt": False}),
    ("DELETE", f"{KEYS}/1", None),
)
SHORT_KEY = {"material": base64.b64encode(b"x" * 16).decode()}
FORGED = {"algorithm": "aes-256-gcm", "nonce": "00" * 12, "ciphertext": "00" * 20, "key_version": 1}
LONG = {"plaintext": "x" * 65_537}

ROWS = [
    # --- config ---
    Row("config.ValidationError", "POST", ITEM, errors.ValidationError, {"env": "dev"}),
    Row("config.InvalidNamespace", "GET", "/api/v1/configs/a%20b/k", errors.InvalidNamespaceError),
    Row("config.InvalidKey", "GET", "/api/v1/configs/app/a%20b", errors.InvalidKeyError),
    Row("config.InvalidValue", "POST", ITEM, errors.InvalidValueError, {**SECRET, "value": 5}),
    Row("config.NotFound", "GET", ITEM, errors.NotFoundError),
    Row("config.VersionNotFound", "POST", f"{ITEM}/rollback/99", errors.VersionNotFoundError, prepare=requests(("POST", ITEM, BODY))),
    Row("config.PermissionDenied", "POST", ITEM, errors.PermissionDeniedError, BODY, role="editor", scope="team-a"),
    Row("config.StorageError", "GET", ITEM, errors.StorageError, prepare=condition("store", "unavailable")),
    Row("config.IoError", "POST", ITEM, errors.StorageError, {**BODY, "value": "x" * 4096}, kind="StorageFull", server=(("disk_bytes", 4096),)),
    Row("config.SerializationError", "GET", ITEM, errors.InternalError, prepare=requests(("POST", ITEM, BODY), ("GET", ITEM, None), ("PUT", RECORD, "no record"))),
    Row("config.EncryptionError", "POST", ITEM, errors.EncryptionError, SECRET, prepare=requests(("DELETE", f"{KEYS}/active", None))),
    Row("config.DecryptionError", "GET", ITEM, errors.DecryptionError, prepare=LOST_KEY),
    Row("config.InternalError", "GET", ITEM, errors.InternalError, prepare=condition("store", "panic")),
    # --- rbac ---
    Row("rbac.AccessDenied", "POST", ITEM, errors.PermissionDeniedError, BODY, role="viewer"),
    Row("rbac.UserNotFound", "GET", f"{RBAC}/users/nobody", errors.NotFoundError),
    Row("rbac.RoleNotFound", "PUT", f"{RBAC}/users/ann/roles", errors.NotFoundError, {"role": {"custom": "ghost"}}),
    Row("rbac.InvalidRole", "PUT", f"{RBAC}/roles/x", errors.ValidationError, {"permissions": ["config:fly"]}),
    Row("rbac.InvalidScope", "PUT", f"{RBAC}/users/ann/roles", errors.ValidationError, {"role": "editor", "scope": "../**"}),
    Row("rbac.InternalError", "GET", f"{RBAC}/roles/one", errors.InternalError, prepare=CYCLE),
    # --- crypto ---
    Row("crypto.InvalidKey", "POST", KEYS, errors.ValidationError, SHORT_KEY),
    Row("crypto.InvalidAlgorithm", "POST", KEYS, errors.ValidationError, {"algorithm": "rot13"}),
    Row("crypto.EncryptionFailed", "POST", "/api/v1/vault/encrypt", errors.EncryptionError, LONG),
    Row("crypto.DecryptionFailed", "POST", "/api/v1/vault/decrypt", errors.DecryptionError, FORGED),
    Row("crypto.KeyGenerationFailed", "POST", KEYS, errors.EncryptionError, {"material": "not base64!"}),
    Row("crypto.InternalError", "POST", KEYS, errors.InternalError, {}, prepare=condition("vault", "panic")),
    # --- audit ---
    Row("audit.Storage", "GET", EVENTS, errors.StorageError, prepare=condition("audit", "unavailable")),
    Row("audit.IoError", "POST", ITEM, errors.StorageError, BODY, prepare=condition("audit", "StorageFull"), kind="StorageFull"),
    Row("audit.InvalidQuery", "GET", f"{EVENTS}?type=banana", errors.InvalidRequestError),
    Row("audit.InvalidTimeRange", "GET", f"{EVENTS}?from=2025-01-01T00:00:00Z&to=2024-01-01T00:00:00Z", errors.ValidationError),
    Row("audit.InternalError", "GET", EVENTS, errors.InternalError, prepare=condition("audit", "panic")),
    # --- cache ---
    Row("cache.CacheMiss", "GET", CACHED, errors.NotFoundError),
    Row("cache.InvalidKey", "GET", "/api/v1/cache/entries/a%3Ab/k", errors.InvalidKeyError),
    Row("cache.StorageError", "DELETE", "/api/v1/cache", errors.StorageError, prepare=condition("cache", "unavailable")),
    Row("cache.IoError", "GET", CACHED, errors.StorageError, prepare=condition("cache", "StorageFull"), kind="StorageFull"),
    Row("cache.SerializationError", "GET", CACHED, errors.InternalError, prepare=requests(("PUT", f"{RECORD}?tier=l2", "no record"))),
    Row("cache.InternalError", "GET", CACHED, errors.InternalError, prepare=condition("cache", "panic")),
]  # fmt: skip


@pytest.fixture
def caused() -> Iterator[Callable[[Row], dict[str, Any]]]:
    """Starts a server, prepares a row on it, and says how to reach it."""
    with ExitStack() as stack:

        def prepare(row: Row) -> dict[str, Any]:
            server = stack.enter_context(MockServer(seed=7, admin=True, **dict(row.server)))
            admin = stack.enter_context(client_of(server.url, server.token()))
            row.prepare(server, admin)
            return {"base_url": server.url, "token": server.token(row.role, scope=row.scope)}

        yield prepare


def client_of(base_url: str, token: str) -> ConfigClient:
    return ConfigClient(base_url, token=token, resilience=None, cache=None)


def check(row: Row, error: errors.LLMConfigError) -> None:
    module, variant = row.name.split(".")
    facts = next(facts for facts in TAXONOMY["modules"][module] if facts["variant"] == variant)
    is_system = row.kind in facts.get("system_kinds", ())
    assert isinstance(error, row.error)
    assert type(error).__name__ == row.error.__name__, "not one of its subclasses"
    assert isinstance(error, FAMILIES[module])
    assert (error.module, error.details["variant"]) == (module, variant)
    assert (error.status, error.code) == (facts["status"], facts["code"])
    assert error.category == (ErrorCategory.SYSTEM if is_system else facts["category"])
    assert error.is_retriable is (facts["retriable"] and not is_system)
    assert error.is_critical is facts.get("critical", variant == "SerializationError")
    assert error.details.get("kind") == row.kind
    assert error.request_id


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_variant_is_caught_as_its_class(caused, row):
    with client_of(**caused(row)) as client, pytest.raises(errors.LLMConfigError) as caught:
        client.request(row.method, row.path, json=row.body)
    check(row, caught.value)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_an_async_client_catches_it_as_the_same(caused, row):
    async with AsyncConfigClient(**caused(row), resilience=None, cache=None) as client:
        with pytest.raises(errors.LLMConfigError) as caught:
            await client.request(row.method, row.path, json=row.body)
    check(row, caught.value)


def test_the_table_has_all_thirty_six():
    assert len(ROWS) == 36
    assert {row.name for row in ROWS} == {f"{module}.{variant}" for module, variant in VARIANTS}
    assert {row.name for row in ROWS} == {
        f"{module}.{facts['variant']}"
        for module, variants in TAXONOMY["modules"].items()
        for facts in variants
    }


# --- The same through the client's own methods --------------------------------------------------------

METHODS: list[tuple[str, Callable[[ConfigClient], object]]] = [
    ("config.NotFound", lambda client: client.get_config(NAMESPACE, KEY)),
    ("config.VersionNotFound", lambda client: client.rollback(NAMESPACE, KEY, 99)),
    ("config.PermissionDenied", lambda client: client.set_config(NAMESPACE, KEY, 1)),
    ("config.StorageError", lambda client: client.get_config(NAMESPACE, KEY)),
    ("config.IoError", lambda client: client.set_config(NAMESPACE, KEY, "x" * 4096)),
    ("config.SerializationError", lambda client: client.list_configs(NAMESPACE)),
    ("config.EncryptionError", lambda client: client.set_config(NAMESPACE, KEY, "s", secret=True)),
    ("config.DecryptionError", lambda client: client.list_configs(NAMESPACE)),
    ("config.InternalError", lambda client: client.delete_config(NAMESPACE, KEY)),
    ("rbac.AccessDenied", lambda client: client.delete_config(NAMESPACE, KEY)),
    ("audit.IoError", lambda client: client.set_config(NAMESPACE, KEY, 1)),
]


@pytest.mark.parametrize(("name", "act"), METHODS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_method_of_the_client_raises_it_too(caused, name, act):
    row = next(row for row in ROWS if row.name == name)
    with client_of(**caused(row)) as client, pytest.raises(errors.LLMConfigError) as caught:
        act(client)
    check(row, caught.value)


# --- What the platform does around a failing component ------------------------------------------------


@pytest.mark.parametrize("kind", sorted(TAXONOMY["modules"]["config"][8]["system_kinds"]))
@pytest.mark.parametrize("component", ["store", "audit", "cache"])
def test_each_kind_of_a_system_error_is_one_in_every_module_that_has_them(component, kind):
    module = {"store": "config"}.get(component, component)
    path = {"store": ITEM, "audit": EVENTS, "cache": CACHED}[component]
    row = Row(f"{module}.IoError", "GET", path, errors.StorageError, kind=kind)
    with MockServer(admin=True) as server, client_of(server.url, server.token()) as client:
        condition(component, kind)(server, client)
        with pytest.raises(errors.StorageError) as caught:
            client.request(row.method, row.path)
        check(row, caught.value)


def test_an_interrupted_store_is_no_system_error_and_may_be_tried_again():
    with MockServer() as server, client_of(server.url, server.token()) as client:
        server.conditions["store"] = "Interrupted"
        with pytest.raises(errors.StorageError) as caught:
            client.get_config(NAMESPACE, KEY)
    assert caught.value.category is ErrorCategory.SERVER
    assert caught.value.is_retriable


def test_a_full_disk_keeps_what_is_on_it_and_takes_what_fits():
    with MockServer(disk_bytes=4096) as server, client_of(server.url, server.token()) as client:
        client.set_config(NAMESPACE, KEY, "small")
        with pytest.raises(errors.StorageError):
            client.set_config(NAMESPACE, KEY, "x" * 4096)
        assert client.get_config(NAMESPACE, KEY).value == "small"
        assert len(client.get_history(NAMESPACE, KEY)) == 1
        assert client.set_config(NAMESPACE, "other", 1).version == 1
