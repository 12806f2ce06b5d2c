"""Pages of lists, histories and audits: offered, and off unless asked for."""

import httpx
import pytest

from llm_config_mock_server import Limits, MockServer
from mock_server.envelopes import error_of, variant_of

LIST = "/api/v1/configs/app%2Fllm"
HISTORY = f"{LIST}/k/history"
EVENTS = "/api/v1/audit/events"


def whole(client: httpx.Client, path: str, **params: object) -> list:
    """Follow the links from the first page to the last."""
    items: list = []
    reply = client.get(path, params=params)
    while True:
        assert reply.status_code == 200, reply.text
        items += reply.json()
        if "next" not in reply.links:
            return items
        reply = client.get(reply.links["next"]["url"])


@pytest.fixture
def filled(client):
    for number in range(7):
        client.post(f"{LIST}/k", json={"value": number, "env": "prod"})
        client.post(f"{LIST}/k{number}", json={"value": number, "env": "prod"})
    return client


@pytest.mark.parametrize(
    ("path", "params"), [(LIST, {"env": "prod"}), (HISTORY, {"env": "prod"}), (EVENTS, {"user": "admin"})]
)
@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_pages_put_together_are_the_whole(filled, path, params, limit):
    everything = filled.get(path, params=params)
    assert "x-total-count" not in everything.headers
    assert "link" not in everything.headers
    assert len(everything.json()) >= 7
    assert whole(filled, path, limit=limit, **params) == everything.json()
    page = filled.get(path, params={"limit": limit, **params})
    assert len(page.json()) == min(limit, len(everything.json()))
    assert page.headers["x-total-count"] == str(len(everything.json()))


def test_an_offset_alone_takes_a_hundred_and_one_behind_the_end_nothing(filled):
    assert len(filled.get(LIST, params={"env": "prod", "offset": 2}).json()) == 6
    behind = filled.get(LIST, params={"env": "prod", "offset": 99})
    assert (behind.json(), behind.links) == ([], {})


def test_a_page_has_an_etag_of_its_own(filled):
    etags = {
        filled.get(LIST, params={"env": "prod", **page}).headers["etag"]
        for page in ({}, {"limit": 1}, {"limit": 2})
    }
    assert len(etags) == 3
    first = filled.get(LIST, params={"env": "prod", "limit": 1})
    same = filled.get(
        LIST, params={"env": "prod", "limit": 1}, headers={"if-none-match": first.headers["etag"]}
    )
    assert same.status_code == 304


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "offset=-1",
        "offset=1.5",
        "offset=" + "9" * 30,
        "limit=%C2%B2",
    ],
)
def test_a_page_that_is_none_is_refused(client, query):
    variant_of(client.get(f"{LIST}?{query}"), 422, "VALIDATION_ERROR", "config", "ValidationError")
    variant_of(client.get(f"{HISTORY}?{query}"), 422, "VALIDATION_ERROR", "config", "ValidationError")
    variant_of(client.get(f"{EVENTS}?{query}"), 400, "INVALID_REQUEST", "audit", "InvalidQuery")


def test_a_rate_limit_tells_what_is_left_on_failures_too(client_as):
    with MockServer(limits=Limits(rate=0.5, burst=3)) as limited:
        client = client_as(of=limited)
        absent = client.get(f"{LIST}/nothing")
        error_of(absent, 404, "NOT_FOUND")
        assert absent.headers["x-ratelimit-limit"] == "3"
        assert absent.headers["x-ratelimit-remaining"] == "2"
        limited.conditions["store"] = "unavailable"
        assert client.get(f"{LIST}/nothing").headers["x-ratelimit-remaining"] == "1"
        assert "x-ratelimit-limit" not in client.get("/health").headers
