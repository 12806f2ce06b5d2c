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


def test_the_page_of_errors_says_the_same_whatever_was_raised_before():
    llm_config_sdk.ResponseDecodeError("cut off", module="config")  # its class is derived for it
    assert page("errors.md") == f"{generate.pages()[REFERENCE / 'errors.md']().strip()}\n"


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


RESILIENCE = (DOCS / "resilience.md").read_text()
STRATEGIES = re.findall(r"^\| (`\w+\([^|]*\)`) \| [^|]* \| ([^|]*) \|$", RESILIENCE, re.MULTILINE)


def test_the_table_of_strategies_has_every_one():
    shown = {name for names, _ in STRATEGIES for name in re.findall(r"`(\w+)\(", names)}
    public = {
        name
        for name in llm_config_resilience.__all__
        if inspect.isclass(member := getattr(llm_config_resilience, name))
        and issubclass(member, llm_config_resilience.Strategy)
        and member not in {llm_config_resilience.Strategy, llm_config_resilience.Scope}
    }
    assert shown == public


@pytest.mark.parametrize(("names", "parameters"), STRATEGIES, ids=lambda it: it[:20])
def test_the_table_of_strategies_tells_every_parameter_with_its_default(names, parameters):
    """But for `name`, which all have; defaults that are objects are told in words."""
    for name, positional in re.findall(r"`(\w+)\(\*?(\w*)\)", names):
        signature = inspect.signature(getattr(llm_config_resilience, name))
        assert {*signature.parameters} - {"name", positional} <= set(re.findall(r"\w+", parameters)), name
        for parameter, told in re.findall(r"`(\w+)=([^`]*)`", parameters):
            if parameter in signature.parameters and re.fullmatch(r"[\d.]+|None|True|False|\(\)", told):
                assert signature.parameters[parameter].default == ast.literal_eval(told), (name, parameter)


def test_every_kind_of_fault_is_in_the_guide_to_rehearsing():
    steps = {name for name in llm_config_mock_server.__all__ if name.islower()} - {"create_app"}
    shown = (DOCS / "how-to" / "chaos.md").read_text()
    assert {name for name in steps if f"`{name}(" not in shown and f"({name}(" not in shown} == set()


ARCHITECTURE = (DOCS / "architecture.md").read_text()


@pytest.mark.parametrize("package", [llm_config_sdk, llm_config_resilience, llm_config_mock_server])
def test_every_room_is_in_the_architecture(package):
    rooms = {
        path.name if path.is_dir() else path.stem
        for path in Path(package.__file__).parent.iterdir()
        if not path.name.startswith(("_", "."))
        and (path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))))
    }
    assert {room for room in rooms if not re.search(rf"\b{room}(\.py|/)", ARCHITECTURE)} == set()
