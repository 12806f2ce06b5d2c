"""Where a secret could come out: everything that a client shows, tells, keeps or raises, as text."""

import dataclasses
import io
import json
import logging
import pickle
import traceback
from collections.abc import Mapping
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from llm_config_sdk.observability import LogListener, OpenTelemetry, PrometheusMetrics
from llm_config_sdk.observability.events import Observer

OURS = ("llm_config_sdk", "llm_config_resilience", "llm_config_mock_server")


def spelled(thing, depth=8):
    """Spell out a thing: how it is shown, and what is inside."""
    texts = [repr(thing), str(thing)]
    if depth == 0 or thing is None or isinstance(thing, (str, bytes, int, float)):
        return "\n".join(texts)
    inner = []
    if isinstance(thing, BaseException):
        inner += [thing.args, vars(thing), thing.__cause__, thing.__context__, getattr(thing, "hint", "")]
        inner += getattr(thing, "exceptions", ())
    elif dataclasses.is_dataclass(thing):
        inner += [getattr(thing, field.name) for field in dataclasses.fields(thing)]
    elif isinstance(thing, Mapping):
        inner += [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set, frozenset)):
        inner += thing
    return "\n".join([*texts, *(spelled(each, depth - 1) for each in inner)])


class Ear(Observer):
    """Hears everything, and spells it out at once."""

    wants = None

    def __init__(self):
        self.heard = []

    def __call__(self, event):
        self.heard.append(spelled(event))

    def began(self, call):
        self.heard.append(spelled(call))

    def sending(self, request):
        self.heard.append(spelled(request))

    def answered(self, answer):
        self.heard.append(spelled(answer))

    def ended(self, event):
        self.heard.append(spelled(event))

    def noticed(self, incident):
        self.heard.append(spelled(incident))


class Paper(logging.Handler):
    """Keeps every line of every logger, its fields and its traceback, as a log of JSON lines would."""

    def __init__(self):
        super().__init__(level=1)
        self.lines, self.of_libraries = io.StringIO(), io.StringIO()

    def emit(self, record):
        if record.getMessage().startswith("receive_response_headers.complete"):
            return  # httpcore, at DEBUG, tells what a server sent, which may be what it was sent
        is_ours = record.name.partition(".")[0] in OURS
        lines = self.lines if is_ours else self.of_libraries
        lines.write(f"{self.format(record)}\n")
        if is_ours:
            lines.write(f"{json.dumps(vars(record), default=repr)}\n")


class Outlets:
    """All that came out of a client: listeners to give to it, and what was written down since.

    Args:
        home: The folder that everything on disk lies below.
        redis: A connection to the Redis that the client shares, if it does.
    """

    def __init__(self, home, redis=None):
        self.home = Path(home)
        self.redis = redis
        self.ear, self.paper = Ear(), Paper()
        self.registry, self.spans = CollectorRegistry(), InMemorySpanExporter()
        self.metrics = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.listeners = [
            self.ear,
            LogListener(),
            PrometheusMetrics(self.registry),
            OpenTelemetry(tracers, MeterProvider([self.metrics])),
        ]
        self.shown, self.raised, self.frames, self.foreign_frames, self.pickled = [], [], [], [], []

    def __enter__(self):
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(1)
        root.addHandler(self.paper)
        return self

    def __exit__(self, *raised):
        logging.getLogger().removeHandler(self.paper)
        logging.getLogger().setLevel(self._level)

    def show(self, *things):
        """Note what a client handed out, or is."""
        for thing in things:
            self.shown += [repr(thing), str(thing), f"{thing}"]

    def hand_out(self, thing):
        """Note what a client handed out, as a process would hand it to another too."""
        self.show(thing)
        self.pickled.append(pickle.dumps(thing).decode("latin-1"))

    def catch(self, error):
        """Note an error: what it says, what it holds, its traceback and the locals of its frames."""
        self.raised += [spelled(error), *traceback.format_exception(error)]
        self.pickled.append(pickle.dumps(error).decode("latin-1"))
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        for each in _chain(told):
            for frame in each.stack:
                ours = any(f"/{name}/" in frame.filename for name in OURS)
                foreign = "site-packages" in frame.filename
                if ours or foreign:  # not the test's own, which has to have the secret somewhere
                    (self.frames if ours else self.foreign_frames).append(
                        f"{frame.filename}:{frame.lineno} {frame.locals}"
                    )

    def everything(self):
        """Collect all of it, by outlet."""
        kept = ""
        if self.redis is not None:
            for key in self.redis.scan_iter("*"):
                kept += f"{key!r} {self.redis.dump(key)!r}\n"
        return {
            "logs": self.paper.lines.getvalue(),
            "the libraries' logs": self.paper.of_libraries.getvalue(),
            "events": "\n".join(self.ear.heard),
            "spans": "\n".join(span.to_json() for span in self.spans.get_finished_spans()),
            "metrics": generate_latest(self.registry).decode() + str(self.metrics.get_metrics_data()),
            "reprs": "\n".join(self.shown),
            "errors": "\n".join(self.raised),
            "locals of our frames": "\n".join(self.frames),
            "locals of the libraries' frames": "\n".join(self.foreign_frames),
            "pickles": "\n".join(self.pickled),
            "files": "\n".join(
                f"{path}\n{path.read_bytes().decode('latin-1')}"
                for path in self.home.rglob("*")
                if path.is_file()
            ),
            "redis": kept,
        }

    def leaks(self, *secrets):
        """Name the outlets that a secret came out of, with the place."""
        return {
            name: text[max(0, at - 300) : at + 100]
            for name, text in self.everything().items()
            for secret in secrets
            if (at := text.find(secret)) >= 0
        }


def _chain(told):
    waiting, seen = [told], []
    while waiting:
        each = waiting.pop()
        if each is not None and each not in seen:
            seen.append(each)
            waiting += [each.__cause__, each.__context__, *(each.exceptions or ())]
    return seen
