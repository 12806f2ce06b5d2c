"""The OpenAPI document: it says what the server does, checked by requests made from it."""

import importlib
import importlib.util
import os
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from llm_config_mock_server import MockServer
from llm_config_mock_server.openapi import PATH, document, path_template
from llm_config_mock_server.profiles.guide import ROUTES

EXAMPLES = 12  # for each operation and each kind of requests
OPERATIONS = [
    (method.upper(), path)
    for path, described in document()["paths"].items()
    for method in described
    if method != "parameters"
]


def takes_anything(method: str, path: str) -> bool:
    """Whether there is anything in a request to this operation that could be wrong."""
    described = document()["paths"][path]
    return "parameters" in described or not {"parameters", "requestBody"}.isdisjoint(
        described[method.lower()]
    )


# What the guide's table has a 500 for although the request is to blame: key material that is no base64
# (KeyGenerationFailed), a text that is too long (EncryptionFailed), a ciphertext that nothing opens
# (DecryptionFailed).
BLAMED_ON_THE_SERVER = {("POST", f"/api/v1/vault/{what}") for what in ("keys", "encrypt", "decrypt")}


@pytest.fixture
def filled() -> Iterator[MockServer]:
    with MockServer(seed=11) as server:
        for number in range(3):
            server.put("app/llm", "model", f"gpt-{number}", env="production")
        server.put("app/llm", "key", "sk-1", secret=True)
        yield server


def test_it_is_served_to_anybody_and_is_no_request_of_the_journal(server):
    reply = httpx.get(server.url + PATH, trust_env=False)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == document()
    assert len(server.journal) == 0


def test_every_route_and_method_is_in_it():
    routes = {(method, path_template(route)) for route in ROUTES for method in route.handlers}
    assert set(OPERATIONS) == routes


def test_every_operation_is_described_and_not_only_listed():
    bare = [
        operation["operationId"]
        for described in document()["paths"].values()
        for method, operation in described.items()
        if method != "parameters"
        and "200" in operation["responses"]
        and not operation["responses"]["200"]["content"]["application/json"]["schema"]
    ]
    assert bare == [], "describe them in openapi.py"
    assert "part_1" not in str(document()["paths"].keys())


def test_every_reference_leads_somewhere():
    text = str(document())
    for kind, names in document()["components"].items():
        for name in names:
            assert kind == "securitySchemes" or f"#/components/{kind}/{name}'" in text, f"{name} is not used"
    assert text.count("$ref") == sum(
        text.count(f"#/components/{kind}/{name}'")
        for kind, names in document()["components"].items()
        for name in names
    )


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        (method, path, kind)
        for method, path in OPERATIONS
        for kind in ("positive", "negative")
        if kind == "positive" or takes_anything(method, path)
    ],
    ids=str,
)
def test_the_server_does_what_the_document_says(filled, method, path, kind):
    if importlib.util.find_spec("schemathesis") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("schemathesis is not installed")
        pytest.skip("schemathesis is not installed")
    schemathesis = importlib.import_module("schemathesis")
    schema = schemathesis.openapi.from_dict(document())
    schema.config.generation.with_security_parameters = False  # tokens are the headers below
    operation = schema[path][method]
    mode = schemathesis.GenerationMode(kind)
    excluded = [schemathesis.checks.not_a_server_error] if (method, path) in BLAMED_ON_THE_SERVER else []
    headers = {"Authorization": f"Bearer {filled.token()}"}
    asked = 0

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        nonlocal asked
        asked += 1
        # What OpenAPI has no words for: a key is for one request, and a range begins before it ends.
        if "Idempotency-Key" in (case.headers or {}):
            case.headers["Idempotency-Key"] = f"key-{asked}"
        if {"from", "to"} <= (case.query or {}).keys():
            del case.query["to"]
        case.call_and_validate(base_url=filled.url, headers=headers, excluded_checks=excluded)

    check()
    assert asked > 0
    assert len(filled.journal) >= asked
