"""Clients of the caller's own: used as they are, and translated."""

import asyncio

import httpx
import pytest
import respx

from llm_config_mock_server import respond
from llm_config_sdk import (
    ConfigClient,
    ConnectFailedError,
    InvalidRequestError,
    NotFoundError,
    RequestTimeoutError,
    ResiliencePolicy,
    TransportError,
)
from llm_config_sdk.transport import Endpoint, WireRequest
from llm_config_sdk.transport.injected import AsyncInjectedTransport

BASE = "https://config.example"
PLAIN = ResiliencePolicy(retry=None, breaker=None)


@pytest.fixture
def client():
    with httpx.Client(trust_env=False) as http_client:
        yield ConfigClient(BASE, token="t", http_client=http_client, resilience=PLAIN)


@respx.mock(base_url=BASE)
def test_respx_answers_in_the_servers_place(respx_mock, client):
    route = respx_mock.get(path="/health").respond(json={"status": "healthy"})
    assert client.health_check().is_healthy
    assert route.calls.last.request.headers["authorization"] == "Bearer t"


@respx.mock(base_url=BASE)
def test_a_namespaces_slash_stays_inside_its_segment(respx_mock, client):
    route = respx_mock.route().respond(
        404, json={"error": {"code": "NOT_FOUND", "message": "Configuration not found"}}
    )
    with pytest.raises(NotFoundError):
        client.get_config("a/b--c", "n.x")
    assert route.calls.last.request.url.raw_path == b"/api/v1/configs/a%2Fb%2D%2Dc/n%2Ex?env=development"


def test_a_transport_that_answers_with_whole_responses_may_be_mounted(face):
    def answer(request):
        return httpx.Response(200, json={"status": "healthy", "service": request.url.host})

    make = httpx.AsyncClient if face.is_async else httpx.Client
    client = face.client(BASE, http_client=make(transport=httpx.MockTransport(answer)))
    assert client.health_check().service == "config.example"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx.ConnectError, ConnectFailedError),
        (httpx.ReadTimeout, RequestTimeoutError),
        (httpx.RemoteProtocolError, TransportError),
    ],
)
@respx.mock(base_url=BASE)
def test_what_the_library_raises_is_the_cause_of_ours(respx_mock, client, raised, expected):
    respx_mock.get(path="/health").mock(side_effect=raised("told"))
    with pytest.raises(expected) as caught:
        client.health_check()
    assert isinstance(caught.value.__cause__, raised)


@respx.mock(base_url=BASE)
def test_an_error_of_no_library_is_no_proof_that_nothing_was_sent(respx_mock, client):
    respx_mock.get(path="/health").mock(side_effect=KeyError("a defect in somebody's transport"))
    with pytest.raises(TransportError, match=r"unforeseen.*KeyError") as caught:
        client.health_check()
    assert not caught.value.never_sent
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_clients_own_auth_stands_in_where_the_sdk_has_no_token(injected_face, server):
    http_client = injected_face.http_client(auth=("user", "password"))
    with pytest.raises(Exception, match="UNAUTHORIZED"):
        injected_face.client(server.url, http_client=http_client).get_config("app", "n")
    assert server.journal[-1].request.header("authorization").startswith("Basic ")
    server.put("app", "n", 1)
    client = injected_face.client(server.url, token=server.token("admin"), http_client=http_client)
    assert client.get_value("app", "n") == 1


def test_a_redirect_is_not_followed_even_by_a_client_that_would(injected_face, server):
    http_client = injected_face.http_client(follow_redirects=True)
    server.script("GET /api/*", respond(307, headers={"location": f"{server.url}/elsewhere"}))
    with pytest.raises(InvalidRequestError):
        injected_face.client(server.url, token=server.token("admin"), http_client=http_client).get_config(
            "app", "n"
        )
    server.journal.assert_count(1)


def test_a_hook_that_raises_for_a_status_does_not_hide_it(injected_face, server):
    def raise_for_status(response):
        response.raise_for_status()

    async def raise_for_status_async(response):
        response.raise_for_status()

    hook = raise_for_status_async if injected_face.is_async else raise_for_status
    http_client = injected_face.http_client(event_hooks={"response": [hook]})
    client = injected_face.client(server.url, token="wrong", http_client=http_client)
    with pytest.raises(Exception, match="UNAUTHORIZED"):
        client.get_config("app", "n")
    server.journal.assert_count(1)


def test_a_client_that_its_owner_closed_says_so(injected_face, server):
    http_client = injected_face.http_client()
    client = injected_face.client(server.url, token=server.token("admin"), http_client=http_client)
    injected_face.run(getattr(http_client, "close", None), getattr(http_client, "aclose", None))
    with pytest.raises(InvalidRequestError, match="closed"):
        client.get_config("app", "n")


async def test_a_cancellation_of_what_a_hook_waits_for_is_one():
    async def hook(_):
        waited_for = asyncio.get_running_loop().create_future()
        waited_for.cancel()
        await waited_for

    async with httpx.AsyncClient(event_hooks={"request": [hook]}) as client:
        transport = AsyncInjectedTransport(client)
        with pytest.raises(asyncio.CancelledError):
            await transport.send(WireRequest("GET", Endpoint.parse("http://192.0.2.1"), "/", {}), 5.0)
