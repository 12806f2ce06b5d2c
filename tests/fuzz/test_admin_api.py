"""The admin interface under any JSON: a refusal that says why, or an effect; never a 500, never a hang."""

import contextlib
import time

import httpx
import pytest
from hypothesis import given, strategies as st

from fuzz.strategies import bodies, encoded, examples, json_values, mutated
from llm_config_mock_server import MockServer
from llm_config_mock_server.admin import ADMIN_PREFIX
from llm_config_mock_server.admin.bodies import StepBody
from llm_config_mock_server.admin.interface import ROUTES
from llm_config_mock_server.conditions import COMPONENTS, KINDS

LONGEST = 5.0  # seconds of this process's work, for one request and what it armed
STEP = {"do": "error", "code": "SERVICE_UNAVAILABLE", "retry_after": 1, "details": {"a": 1}, "before": 0.1}
STEPS = [{"do": name} for name in StepBody.model_fields["do"].annotation.__args__]
FAULT = {
    "name": "x",
    "match": {"method": "GET", "path": "/api/*", "headers": {"a": "b"}, "env": "dev"},
    "steps": [STEP, {"do": "drip", "interval": 0.1, "size": 1, "part": "body"}],
    "repeat": "last",
    "times": 2,
    "probability": 0.5,
    "between": [0.0, 1.0],
}
BODIES = (
    FAULT,
    {"match": "GET /api/*", "steps": STEPS},
    {"kind": "StorageFull", "count": 1},
    {"rate": 0.5, "match": "/api/*", "steps": [STEP]},
    {"value": {"a": [1]}, "env": "dev", "secret": False, "user": "u", "tags": ["t"], "description": "d"},
    {"value": "s3cr3t", "secret": True},
)
documents = st.sampled_from(BODIES).flatmap(lambda body: st.just(body) | mutated(body))
names = st.one_of(
    st.sampled_from(
        [*COMPONENTS, *sorted(KINDS), "1", "0", "-1", "app", "app%2Fllm", "%00", "%FF", "..", "%2e%2e"]
    ),
    st.text("abc/%?#&= .\\\u00e9", max_size=8),
)
routes = st.sampled_from([*(route.segments for route in ROUTES), ("nowhere",), ("faults", None, None)])
queries = st.dictionaries(
    st.sampled_from(["limit", "after", "offset", "env", "namespace", "tier", "x"]),
    st.sampled_from(["0", "1", "1000", "1001", "-1", "9" * 40, "\u0663", "dev", "", "l2", "store"])
    | st.text(max_size=5),
    max_size=3,
)


HEALTH = "http://127.0.0.1/health"


def filled(path):
    """Write a path, with a name in its gaps."""
    segments, name = path
    return "".join(f"/{name if segment is None else segment}" for segment in segments)


@pytest.fixture(scope="module", params=["guide", "upstream-0.5"])
def server(request):
    server = MockServer(request.param, seed=7, admin=True, limits=False)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server):
    transport = server.transport(sleep=lambda seconds: None)
    with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:80{ADMIN_PREFIX}") as client:
        yield client


_requests = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        "url": st.tuples(routes, names).map(filled),
        "params": queries,
        "content": (documents | json_values).map(encoded) | bodies,
    }
)


@examples(200)
@given(_requests)
def test_it_refuses_or_obeys(server, client, request_of_it):
    server.reset()
    began = time.process_time()
    reply = client.request(**request_of_it)
    assert reply.status_code < 500, reply.text
    is_its_own = reply.request.url.path.startswith(f"{ADMIN_PREFIX}/")  # httpx takes dot segments away
    if is_its_own and reply.status_code >= 400 and request_of_it["method"] != "HEAD":
        assert reply.json()["error"]["message"]
        assert len(reply.content) < 20_000
    assert not server._core.defects
    assert client.get("/stats").json()["profile"] == server._core.profile.name
    assert time.process_time() - began < LONGEST


@examples(60)
@given(
    st.lists(st.sampled_from(STEPS) | mutated(STEP), min_size=1, max_size=3),
    st.sampled_from(["never", "last", "all"]),
)
def test_what_it_arms_is_carried_out_and_can_be_taken_back(server, client, steps, repeat):
    server.reset()
    body = encoded({"match": "GET /health", "steps": steps, "repeat": repeat})
    assert client.post("/faults", content=body).status_code < 500
    for _ in range(2):
        with contextlib.suppress(httpx.HTTPError):
            client.get(HEALTH, timeout=1)
    assert not server._core.defects
    assert client.delete("/faults").status_code == 204
    assert client.get(HEALTH).status_code in {200, 400}  # 0.5 wants a proxy before it
