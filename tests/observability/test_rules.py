"""The rules and the dashboard that are shipped, with Prometheus's own tools."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from llm_config_resilience import Event
from llm_config_sdk import ServiceUnavailableError
from llm_config_sdk.observability import Answered, ObservedCall, PrometheusMetrics, Sending
from llm_config_sdk.observability.prometheus import DASHBOARD, RULES
from observability.conftest import call_event

TESTS = Path(__file__).with_name("rules_test.yml")
TOOL_TIMEOUT = 60.0  # seconds: promtool takes a fraction of one


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        reason = "promtool is not installed (Debian: the package prometheus)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def existing():
    """The names of all series that the metrics can have."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    request = Sending(ObservedCall("get_config"), 1, "http://a", "a", 80, "http://a/x", 0.0)
    metrics.sending(request)
    metrics.answered(Answered(request, 200, None, 0.1))
    metrics.ended(call_event("degraded", ServiceUnavailableError("x"), source="stale"))
    for kind in sorted(PrometheusMetrics.wants):
        metrics(Event(kind, "read", "layer", 0.0, details={"breaker": "http://a", "reason": "attempts"}))
    names = {sample.name for family in registry.collect() for sample in family.samples}
    return names | {"llm_config_retry_budget_tokens"}  # once there was a retry; test_prometheus.py sees it


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT, check=False)


def names_in(expression):
    """Find the metrics in PromQL: what is no label, no word of the language and no template variable."""
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]|\b(?:by|without)\s*\([^)]*\)", " ", expression)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if "_" in name} - {"histogram_quantile"}


def test_the_rules_are_well_formed(promtool):
    done = run(promtool, "check", "rules", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_unit_tests_pass(promtool, tmp_path):
    told = tmp_path / TESTS.name
    told.write_text(f"rule_files: [{json.dumps(str(RULES))}]\n{TESTS.read_text()}")
    done = run(promtool, "test", "rules", str(told))
    assert done.returncode == 0, done.stdout + done.stderr


def rules():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def test_the_rules_ask_for_metrics_that_exist(existing):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        named = names_in(rule["expr"])
        assert named, rule
        assert named <= existing | recorded, rule


def test_each_of_the_guides_alerts_has_a_rule_with_a_test():
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts == {
        "LLMConfigHighErrorRate",
        "LLMConfigRepeatedFailures",
        "LLMConfigCriticalError",
        "LLMConfigDataLoss",
        "LLMConfigResourceError",
    }
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    firing = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    assert firing == alerts


def test_each_alert_says_how_bad_it_is_and_what_to_do():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert {"summary", "description"} <= rule["annotations"].keys()


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text())


def test_the_documentation_has_every_metric_with_its_labels(existing):
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(errors\w+|llm_config_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}
    registry = CollectorRegistry()
    PrometheusMetrics(registry)
    assert documented.keys() == {re.sub(r"_(bucket|count|sum)$", "", name) for name in existing}
    for family in registry.collect():
        for sample in family.samples:
            name = re.sub(r"_(bucket|count|sum)$", "", sample.name)
            assert documented[name] == sample.labels.keys() - {"le"}, name


def panels_of(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_the_dashboards_panels_ask_for_metrics_that_exist(dashboard, existing):
    for panel in panels_of(dashboard):
        assert panel["targets"]
        for target in panel["targets"]:
            named = names_in(target["expr"].replace("$__rate_interval", ""))
            assert named, target
            assert named <= existing, (panel["title"], named - existing)


def test_every_metric_is_on_the_dashboard(dashboard, existing):
    shown = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for panel in panels_of(dashboard)
        for target in panel["targets"]
        for name in names_in(target["expr"].replace("$__rate_interval", ""))
    }
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in existing}
    assert families - shown == set()


def test_the_dashboards_expressions_are_promql(promtool, dashboard, tmp_path):
    expressions = [target["expr"] for panel in panels_of(dashboard) for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = run(promtool, "check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_panels_do_not_overlap_and_have_their_own_ids(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_names_no_data_source_of_its_own(dashboard):
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels_of(dashboard))
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]
