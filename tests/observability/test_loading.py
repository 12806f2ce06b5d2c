"""Nothing is loaded that is not used."""

import subprocess
import sys

import pytest

from llm_config_sdk import observability

EXTRAS = {"prometheus_client", "opentelemetry.trace"}
LIMIT = 60.0  # seconds: an interpreter starts in a fraction of one


def run(program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_after(program):
    # pybreaker loads redis where it is installed, and redis loads OpenTelemetry.
    return set(run(f"import sys; sys.modules['redis'] = None\n{program}\nprint(*sys.modules)").split())


@pytest.mark.parametrize(
    "program",
    [
        "import llm_config_sdk.observability",
        "from llm_config_sdk.observability import AlertMonitor, ErrorAggregator, LogListener, Observer",
        "from llm_config_sdk.observability.prometheus import DASHBOARD, RULES",
    ],
)
def test_what_needs_no_extra_loads_none(program):
    assert not loaded_after(program) & EXTRAS


def test_each_extra_is_loaded_alone():
    metrics = loaded_after("from llm_config_sdk.observability import PrometheusMetrics")
    spans = loaded_after("from llm_config_sdk.observability import OpenTelemetry")
    assert metrics & EXTRAS == {"prometheus_client"}
    assert spans & EXTRAS == {"opentelemetry.trace"}


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("PrometheusMetrics", "prometheus_client", "prometheus"),
        ("OpenTelemetry", "opentelemetry", "otel"),
    ],
)
def test_a_missing_extra_is_named(name, missing, extra):
    told = run(
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"from llm_config_sdk import observability\n"
        f"try: observability.{name}\n"
        f"except ModuleNotFoundError as error: print(error)"
    )
    assert f"llm-config-sdk[{extra}]" in told


def test_every_public_name_is_there_and_no_other():
    assert observability.__all__ == sorted(observability.__all__)
    for name in observability.__all__:
        assert getattr(observability, name) is not None
        assert name in dir(observability)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = observability.Nonsense


def test_the_rules_and_the_dashboard_are_shipped():
    from llm_config_sdk.observability import prometheus  # noqa: PLC0415  # loaded by this test alone

    assert prometheus.RULES.read_text().startswith("#")
    assert prometheus.DASHBOARD.read_text().startswith("{")
    assert prometheus.PrometheusMetrics is observability.PrometheusMetrics
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = prometheus.Nonsense
