"""Tokens, roles and scopes in the profile `guide`."""

import httpx
import pytest

from llm_config_mock_server import MockServer
from mock_server.envelopes import error_of, variant_of

ITEM = "/api/v1/configs/team-a/model"
BODY = {"value": 1, "env": "dev"}


@pytest.mark.parametrize("header", [None, "Bearer", "Basic dXNlcjpwYXNz", "Bearer nobody"])
def test_without_a_known_token_authentication_is_asked_for(client_as, header):
    headers = {} if header is None else {"authorization": header}
    reply = client_as(None).get(ITEM, headers=headers)
    assert "module" not in error_of(reply, 401, "UNAUTHORIZED")["details"]
    assert reply.headers["www-authenticate"].startswith("Bearer")


def test_the_scheme_is_read_in_any_letter_case(client_as, server):
    reply = client_as(None).get(ITEM, headers={"authorization": f"bearer {server.token('viewer')}"})
    assert reply.status_code == 404


def test_without_auth_anybody_may_do_anything(client_as):
    with MockServer(auth=False) as open_server:
        client = client_as(None, of=open_server)
        assert client.post(ITEM, json=BODY).json()["metadata"]["created_by"] == "api-user"
        assert client.post(ITEM, json={**BODY, "user": "ann"}).json()["metadata"]["updated_by"] == "ann"


@pytest.mark.parametrize(
    ("role", "read", "write", "delete"),
    [
        ("admin", 200, 200, 204),
        ("editor", 200, 200, 204),
        ("viewer", 200, 403, 403),
        ("auditor", 200, 403, 403),
    ],
)
def test_a_role_allows_what_it_should_and_no_more(server, client_as, role, read, write, delete):  # noqa: PLR0917 - fixtures and a row
    server.put("team-a", "model", 1)
    client = client_as(role)
    assert client.get(ITEM).status_code == read
    assert client.post(ITEM, json=BODY).status_code == write
    assert client.post(f"{ITEM}/rollback/1").status_code == write
    assert client.delete(ITEM).status_code == delete


def test_a_role_that_lacks_a_permission_is_denied_access(server, client_as):
    details = variant_of(
        client_as("viewer").post(ITEM, json=BODY), 403, "PERMISSION_DENIED", "rbac", "AccessDenied"
    )
    assert details["permission"] == "config:write"
    assert server.entry("team-a", "model") is None


@pytest.mark.parametrize(
    ("scope", "namespace", "allowed"),
    [
        ("**", "team-a/deep/er", True),
        ("team-a", "team-a", True),
        ("team-a", "team-a/deep", False),
        ("team-a", "team-b", False),
        ("team-a/**", "team-a", True),
        ("team-a/**", "team-a/deep/er", True),
        ("team-a/**", "team-ab", False),
        ("*/prod", "team-a/prod", True),
        ("*/prod", "team-a/dev", False),
    ],
)
def test_a_scope_reaches_its_namespaces_alone(client_as, scope, namespace, allowed):
    reply = client_as("editor", scope=scope).post(
        f"/api/v1/configs/{namespace.replace('/', '%2F')}/k", json=BODY
    )
    if allowed:
        assert reply.status_code == 200
    else:
        details = variant_of(reply, 403, "PERMISSION_DENIED", "config", "PermissionDenied")
        assert details["operation"] == "config:write"
        assert details["user"].startswith("editor")


def test_only_who_may_name_others_is_not_the_author(client_as):
    named = {**BODY, "user": "ann"}
    assert client_as("editor").post(ITEM, json=named).json()["metadata"]["updated_by"] == "editor"
    assert client_as("admin").post(ITEM, json=named).json()["metadata"]["updated_by"] == "ann"
    assert client_as("editor", user="eve").post(ITEM, json=BODY).json()["metadata"]["updated_by"] == "eve"


def test_tokens_are_stable_and_differ_by_who_holds_them(server):
    assert server.token("viewer") == server.token("viewer")
    assert (
        len(
            {
                server.token("viewer"),
                server.token("admin"),
                server.token("viewer", scope="a"),
                server.token("viewer", user="x"),
            }
        )
        == 4
    )


def test_a_seed_repeats_the_tokens():
    assert MockServer(seed=1).token() == MockServer(seed=1).token()
    assert MockServer(seed=1).token() != MockServer(seed=2).token()


def test_the_tokens_of_the_built_in_roles_are_valid_before_anybody_asks_for_them(client_as):
    with MockServer(seed=3) as one, MockServer(seed=3) as other:
        for role, status in {"admin": 200, "editor": 200, "viewer": 403, "auditor": 403}.items():
            headers = {"authorization": f"Bearer {one.token(role)}"}
            assert client_as(None, of=other).post(ITEM, json=BODY, headers=headers).status_code == status


def test_an_unknown_user_is_not_found(client):
    variant_of(client.get("/api/v1/rbac/users/nobody"), 404, "NOT_FOUND", "rbac", "UserNotFound")
    variant_of(client.post("/api/v1/rbac/users/nobody/tokens"), 404, "NOT_FOUND", "rbac", "UserNotFound")


def test_an_unknown_custom_role_is_not_found(client):
    reply = client.put("/api/v1/rbac/users/ann/roles", json={"role": {"custom": "ghost"}})
    variant_of(reply, 404, "NOT_FOUND", "rbac", "RoleNotFound")
    variant_of(client.get("/api/v1/rbac/roles/ghost"), 404, "NOT_FOUND", "rbac", "RoleNotFound")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("roles/x", {"permissions": ["config:fly"]}),
        ("roles/x", {"permissions": []}),
        ("roles/x", {"permissions": [{}]}),
        ("roles/x", {"permissions": ["config:read"], "inherits": [{}]}),
        ("roles/admin", {"permissions": ["config:read"]}),
        ("users/ann/roles", {"role": "emperor"}),
        ("users/ann/roles", {"role": {"custom": 5}}),
        ("users/ann/roles", {}),
    ],
)
def test_what_is_no_role_is_invalid(client, path, body):
    variant_of(client.put(f"/api/v1/rbac/{path}", json=body), 422, "VALIDATION_ERROR", "rbac", "InvalidRole")


@pytest.mark.parametrize("scope", ["../**", "", "a//b", "a/**/b", "**/a", 5, None, "a.b"])
def test_what_is_no_scope_is_invalid(client, scope):
    reply = client.put("/api/v1/rbac/users/ann/roles", json={"role": "editor", "scope": scope})
    variant_of(reply, 422, "VALIDATION_ERROR", "rbac", "InvalidScope")


def test_roles_that_inherit_in_a_circle_are_an_internal_error(client, client_as):
    for name, parent in (("one", "two"), ("two", "one")):
        reply = client.put(f"/api/v1/rbac/roles/{name}", json={"inherits": [parent]})
        assert reply.status_code == 200
    assert client.put("/api/v1/rbac/users/ann/roles", json={"role": {"custom": "one"}}).status_code == 200
    token = client.post("/api/v1/rbac/users/ann/tokens").json()["token"]
    reply = client_as(None).get(ITEM, headers={"authorization": f"Bearer {token}"})
    variant_of(reply, 500, "INTERNAL_ERROR", "rbac", "InternalError")


def test_a_custom_role_permits_its_own_and_inherited_things(server, client, client_as):
    server.put("team-a", "model", 1)
    client.put("/api/v1/rbac/roles/remover", json={"permissions": ["config:delete"], "inherits": ["viewer"]})
    granted = client.put(
        "/api/v1/rbac/users/ann/roles", json={"role": {"custom": "remover"}, "scope": "team-a"}
    )
    assert granted.json() == {"user": "ann", "roles": [{"role": "remover", "scope": "team-a"}]}
    ann = httpx.Headers(
        {"authorization": f"Bearer {client.post('/api/v1/rbac/users/ann/tokens').json()['token']}"}
    )
    other = client_as(None)
    assert other.get(ITEM, headers=ann).status_code == 200
    assert other.post(ITEM, json=BODY, headers=ann).status_code == 403
    assert other.delete(ITEM, headers=ann).status_code == 204
    assert client.get("/api/v1/rbac/roles/remover").json()["permissions"] == ["config:delete", "config:read"]


def test_only_an_admin_changes_roles_and_an_auditor_may_look(client_as):
    body = {"role": "admin"}
    for role in ("editor", "viewer", "auditor"):
        reply = client_as(role).put("/api/v1/rbac/users/me/roles", json=body)
        variant_of(reply, 403, "PERMISSION_DENIED", "rbac", "AccessDenied")
    listed = client_as("auditor").get("/api/v1/rbac/users").json()
    assert {"auditor", "editor", "viewer"} <= {user["user"] for user in listed}
    assert [role["role"] for role in client_as("auditor").get("/api/v1/rbac/roles").json()][:4] == [
        "admin",
        "editor",
        "viewer",
        "auditor",
    ]
