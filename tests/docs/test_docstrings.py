"""The examples that the reference shows run as they stand there."""

import ast
import asyncio
import importlib
import inspect
import re
from collections.abc import Iterator

import generate
import httpx
import pydantic_settings
import pytest

from llm_config_mock_server import MockServer
from llm_config_sdk import ConfigClient

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Warns|Yields):")


def examples(docstring: str) -> Iterator[str]:
    """Every block that is indented, before the parameters."""
    block: list[str] = []
    after_a_gap = True
    for line in [*docstring.splitlines(), "."]:
        if SECTION.fullmatch(line):
            line = "."  # noqa: PLW2901  # the end
        if line.startswith("    ") and (block or after_a_gap):
            block.append(line.removeprefix("    "))
        elif block and not line:
            block.append("")
        elif block:
            yield "\n".join(block).strip()
            block = []
        if line == ".":
            return
        after_a_gap = not line


def documented() -> Iterator[tuple[str, object]]:
    for package in generate.PACKAGES:
        module = importlib.import_module(package.name)
        for name in module.__all__:
            member = getattr(module, name)
            yield f"{package.name}.{name}", member
            if inspect.isclass(member):
                for inner, method in vars(member).items():
                    if not inner.startswith("_"):
                        yield f"{package.name}.{name}.{inner}", method


EXAMPLES = [
    (name, example) for name, member in documented() for example in examples(inspect.getdoc(member) or "")
]


@pytest.fixture
def names(world, monkeypatch):
    """What examples take for granted: every public name, and stand-ins for a reader's own."""
    public = {}
    for package in generate.PACKAGES:
        module = importlib.import_module(package.name)
        public |= {name: getattr(module, name) for name in module.__all__}

    def fetch(currency: str) -> float:
        return {"EUR": 1.08}[currency]

    async def fetch_async(currency: str) -> float:
        return fetch(currency)

    monkeypatch.setattr("prometheus_client.start_http_server", lambda port: None)
    with MockServer() as server, ConfigClient(world.primary.url) as client:
        yield public | {
            "asyncio": asyncio,
            "httpx": httpx,
            "BaseSettings": pydantic_settings.BaseSettings,
            "client": client,
            "server": server,
            "fetch": fetch,
            "fetch_async": fetch_async,
            "last_known_price": lambda: 1.08,
            "my_logger": None,
            "page": lambda summary: None,
            "urls": ["https://a.example.com", "https://b.example.com"],
        }


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_of_a_public_name_runs(name, example, names, world):
    source = world.real(example).replace("http://127.0.0.1:8080", world.primary.url)
    running = eval(compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(running):
        asyncio.run(running)


@pytest.mark.parametrize("package", ["llm_config_sdk", "llm_config_resilience", "llm_config_mock_server"])
def test_what_a_package_is_there_for_has_an_example(package):
    main = {
        "llm_config_sdk": {"ConfigClient", "AsyncConfigClient"},
        "llm_config_resilience": {
            *("Pipeline", "Fallback", "CacheFallback", "SingleFlight", "Timeout", "Retry", "RetryBudget"),
            *("Failover", "PerTarget", "PerKey", "CircuitBreaker", "Hedge", "RateLimit", "Bulkhead"),
        },
        "llm_config_mock_server": {"MockServer", "FaultProxy", "create_app"},
    }
    assert {f"{package}.{name}" for name in main[package]} <= {name for name, _ in EXAMPLES}
