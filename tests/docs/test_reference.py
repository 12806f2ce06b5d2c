"""The reference has everything, and says what the code says."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import generate
import pytest
from pages import DOCS, ROOT, name_of
from prometheus_client import CollectorRegistry

import llm_config_mock_server
import llm_config_resilience
import llm_config_sdk
from llm_config_sdk.cli.app import app
from llm_config_sdk.contract import CODES, SYSTEM_KINDS, VARIANTS
from llm_config_sdk.errors import CODE_CLASSES
from llm_config_sdk.hints import CLASS_HINTS, STATUS_HINTS
from llm_config_sdk.observability import PrometheusMetrics, otel
from llm_config_sdk.settings import ENV_PREFIX, ClientSettings

REFERENCE = DOCS / "reference"
OBSERVABILITY = (DOCS / "observability.md").read_text()
PACKAGES = [package.name for package in generate.PACKAGES]


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


@pytest.mark.parametrize(
    ("path", "make"), generate.pages().items(), ids=lambda it: it.name if isinstance(it, Path) else ""
)
def test_a_page_made_of_the_code_is_the_one_committed(path, make):
    assert path.read_text() == f"{make().strip()}\n", f"{name_of(path)} is out of date: run `make docs`"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_of_a_package_is_in_the_reference(package):
    shown = set(re.findall(rf"^::: {re.escape(package)}\.(\w+)$", page(f"{package}.md"), re.MULTILINE))
    public = {name for name in importlib.import_module(package).__all__ if not name.startswith("__")}
    assert shown == public


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring_of_its_own(package):
    module = importlib.import_module(package)
    functions_and_classes = [
        member
        for name in module.__all__
        if inspect.isclass(member := getattr(module, name)) or inspect.isfunction(member)
    ]
    assert [
        member.__qualname__
        for member in functions_and_classes
        if not member.__dict__.get("__doc__", member.__doc__)
    ] == []


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_has_its_entry(code):
    section = page("errors.md").partition(f"### {code.value} {{ #{code.value} }}")[2].partition("\n### ")[0]
    facts = CODES[code]
    assert f"[`{CODE_CLASSES[code].__name__}`]" in section
    assert f"HTTP {facts.status}" in section
    assert ("**Retriable.**" in section) == facts.retriable
    assert ("**Critical.**" in section) == facts.critical
    assert "| Remedy |" in section
    assert "| Cause |" in section


@pytest.mark.parametrize("facts", VARIANTS.values(), ids=lambda facts: f"{facts.module}.{facts.variant}")
def test_every_variant_has_its_row(facts):
    anchor = f'id="{facts.module.value}.{facts.variant}"'
    (row,) = [line for line in page("errors.md").splitlines() if anchor in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert facts.code.value in cells[1]
    assert cells[4:6] == ["yes" if facts.retriable else "no", "yes" if facts.critical else "no"]
    assert cells[6]


def test_every_system_failure_every_class_without_a_code_and_every_status_has_its_row():
    text = page("errors.md")
    for named in (*SYSTEM_KINDS, *CLASS_HINTS):
        assert f"`{named}`" in text
    for status in STATUS_HINTS:
        assert f"| HTTP {status} |" in text


@pytest.mark.parametrize("name", ClientSettings.model_fields)
def test_every_setting_has_its_row(name):
    assert f"`{ENV_PREFIX}{name.upper()}`" in page("settings.md")


@pytest.mark.parametrize("name", [str(command.name) for command in app.registered_commands])
def test_every_command_is_documented_with_what_its_help_says(name):
    section = page("commands.md").partition(f"## {name} {{ #{name} }}")[2].partition("\n## ")[0]
    assert generate.captured_help([name]) in section


def test_every_environment_variable_that_the_code_reads_is_documented():
    documented = "".join(path.read_text() for path in (*DOCS.rglob("*.md"), ROOT / "README.md"))
    read = set()
    for package in (llm_config_sdk, llm_config_resilience, llm_config_mock_server):
        for source in Path(package.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    read |= set(re.findall(r"LLM_CONFIG_[A-Z][A-Z_]*[A-Z]", node.value))
    assert read
    assert {name for name in read if name not in documented} == set()


def test_every_metric_of_prometheus_has_its_row_and_nothing_else_has():
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    declared = {re.sub("_total$", "", family.name) for family in registry.collect()}
    rows = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \|", OBSERVABILITY, re.MULTILINE)
    later = {"llm_config_retry_budget_tokens"}  # there from the first retry on
    assert {re.sub("_total$", "", name) for name in rows} == declared | later


TOLD = re.findall(r'"((?:llm_config|http)\.[a-z_.]+)"', inspect.getsource(otel))


@pytest.mark.parametrize("name", sorted(set(TOLD)))
def test_every_name_that_opentelemetry_is_told_is_documented(name):
    assert f"`{name}`" in OBSERVABILITY
