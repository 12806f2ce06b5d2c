"""One scenario file on every host, from sync and async clients of both families: the outcomes are equal.

What a scenario compares is the class of an exception, or a status, and whether a write took effect;
never words or milliseconds. `"wire": true` marks what an ASGI application cannot carry.
"""

import inspect
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

import llm_config_mock_server as package
from llm_config_mock_server import Match, MockServer, Step, create_app
from mock_server.uvicorn_host import under_uvicorn
from resilience.crowds import until

SCENARIOS = json.loads(Path(__file__).with_name("scenarios.json").read_text())
LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
HOSTS = ["socket", "asgi", "transport"]
ITEM = "/api/v1/configs/app%2Fllm/model"
PATIENCE = 5.0  # seconds: far beyond what a loopback needs
CALLS = {
    "GET": {"method": "GET", "url": ITEM},
    "POST": {"method": "POST", "url": ITEM, "json": {"value": 2, "env": "dev"}},
    "DELETE": {"method": "DELETE", "url": ITEM},
}


@pytest.fixture(scope="module")
def application() -> Iterator[tuple[MockServer, str]]:
    app = create_app(auth=False)
    with under_uvicorn(app) as url:
        yield app.server, url


class Place:
    """A server on one of the hosts, and clients that reach it there."""

    def __init__(self, server: MockServer, url: str, *, in_process: bool) -> None:
        self.server = server
        self.url = url
        self.in_process = in_process

    def client(self, family: str, *, timeout: float) -> Any:
        library = LIBRARIES[family]
        if not self.in_process:
            return library.Client(base_url=self.url, timeout=timeout, trust_env=False)
        transport = self.server.transport(family, sleep=lambda _: None)
        return library.Client(base_url=self.url, timeout=timeout, transport=transport)

    def async_client(self, family: str, *, timeout: float) -> Any:
        library = LIBRARIES[family]
        if not self.in_process:
            return library.AsyncClient(base_url=self.url, timeout=timeout, trust_env=False)

        async def no_time(_: float) -> None: ...

        transport = self.server.async_transport(family, sleep=no_time)
        return library.AsyncClient(base_url=self.url, timeout=timeout, transport=transport)


@pytest.fixture(params=HOSTS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    match request.param:
        case "socket":
            with MockServer(auth=False) as server:
                yield Place(server, server.url, in_process=False)
        case "transport":
            yield Place(MockServer(auth=False), "http://config.test", in_process=True)
        case _:
            server, url = request.getfixturevalue("application")
            server.reset()
            yield Place(server, url, in_process=False)


def step_of(told: dict[str, Any]) -> Step:
    name = next(name for name in told if name not in {"after_effect", "at_head"})
    step = getattr(package, name)(**told[name])
    if told.get("after_effect"):
        step = step.after_effect()
    return step.at_head() if told.get("at_head") else step


async def outcomes(client: Any, library: Any, calls: list[str]) -> list[Any]:
    seen: list[Any] = []
    families: set[str] = set()
    for call in calls:
        try:
            reply = client.request(**CALLS[call])
            seen.append((await reply if inspect.isawaitable(reply) else reply).status_code)
        except library.HTTPError as error:
            seen.append(type(error).__name__)
            families.add(type(error).__module__)
    assert families <= {library.__name__}
    return seen


@pytest.mark.parametrize("family", LIBRARIES)
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
async def test_a_scenario_has_the_same_outcomes_on_every_host(request, place, scenario, colour, family):
    is_application = request.node.callspec.params["place"] == "asgi"
    server = place.server
    server.put("app/llm", "model", 1)
    match = Match(connection=True) if scenario.get("connection") else "*"
    steps = [step_of(told) for told in scenario["steps"]]
    if is_application and scenario.get("wire"):
        if steps:
            with pytest.raises(ValueError, match="the ASGI host cannot carry the fault"):
                server.script(match, steps)
        return
    if steps:
        server.script(match, steps)
    if scenario.get("outage"):
        server.stop()
    library = LIBRARIES[family]
    # What is measured is the answer: a busy machine may take its time to connect.
    timeout = library.Timeout(PATIENCE, read=scenario.get("timeout", PATIENCE))
    async with AsyncExitStack() as stack:
        if colour == "sync":
            client = stack.enter_context(place.client(family, timeout=timeout))
        else:
            client = await stack.enter_async_context(place.async_client(family, timeout=timeout))
        seen = await outcomes(client, library, scenario["calls"])
    if scenario.get("connection"):
        # Which of the three meets a reset at once depends on how far the client has come.
        seen = ["ReadError" if outcome in {"ConnectError", "WriteError"} else outcome for outcome in seen]
    assert seen == scenario["outcomes"]
    if "version" in scenario:
        # A client that gave up may be sooner than the effect of its write.
        until(lambda: server.entry("app/llm", "model")["version"] == scenario["version"])


def test_every_public_step_has_a_scenario():
    told = {name for scenario in SCENARIOS for step in scenario["steps"] for name in step}
    makers = {
        name
        for name in package.__all__
        if inspect.isfunction(made := getattr(package, name))
        and inspect.signature(made).return_annotation == "Step"
    }
    assert makers <= told
