#!/usr/bin/env python3
"""Write the reference pages that follow from the code: names, errors, settings, commands.

`make docs` runs it before it builds the site; a test compares what it writes with what is committed.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk import settings
from llm_config_sdk.contract import CODES, VARIANTS, ErrorCode, Module
from llm_config_sdk.errors import CODE_CLASSES, LLMConfigError
from llm_config_sdk.hints import CLASS_HINTS, KIND_HINTS, STATUS_HINTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
REFERENCE: Final = ROOT / "docs" / "reference"
HELP_COLUMNS: Final = 80  # characters: what fits beside a navigation, and on a phone after little scrolling

NOTE: Final = "<!-- Written by docs/tools/generate.py: change the code it is made from, not this page. -->"


# --- Names ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose public names have a page.

    Attributes:
        name: Its import name.
        title: The page's title.
        intro: What the page says before the names.
        sections: Module (or beginning of one) to heading, in the page's order; others follow.
        options: By name, lines for mkdocstrings: how it is shown unlike the others.
    """

    name: str
    title: str
    intro: str
    sections: Mapping[str, str]
    options: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])


PACKAGES: Final = (
    Package(
        "llm_config_sdk",
        "llm_config_sdk",
        "The typed client. What each error means and what to do about it is on a page of its own:\n"
        "[errors](errors.md).",
        {
            "client": "Clients",
            "entries": "What a caller gets",
            "many": "What a caller gets",
            "watching": "What a caller gets",
            "status": "What a caller gets",
            "policy": "Policies",
            "snapshot": "Policies",
            "llm_config_resilience": "Policies",
            "binding": "Settings from a namespace",
            "contract": "The platform's vocabulary",
            "errors": "Errors",
            "transport": "Transports",
            "plans": "Constants",
        },
    ),
    Package(
        "llm_config_sdk.observability",
        "llm_config_sdk.observability",
        "Logs, metrics, spans, grouped errors and alerts: listeners that a client takes as `listeners=`.\n"
        "Each part is loaded when it is first named. How to use them: [observability](../observability.md).",
        {
            "logs": "Logs",
            "metrics": "Prometheus",
            "prometheus": "Prometheus",
            "otel": "OpenTelemetry",
            "aggregation": "Similar errors together",
            "alerts": "Alerts",
            "events": "Listeners of your own",
            "families": "Listeners of your own",
        },
    ),
    Package(
        "llm_config_resilience",
        "llm_config_resilience",
        "The toolkit: strategies around any callable, for sync, asyncio and trio. It knows nothing of HTTP\n"
        "or of configs and can be used alone.",
        {
            "pipeline": "Pipelines",
            "strategies.retry": "Strategies",
            "strategies.budget": "Strategies",
            "strategies.strategy": "Writing a strategy",
            "strategies.conditions": "Conditions",
            "strategies": "Strategies",
            "directives": "Writing a strategy",
            "context": "Writing a strategy",
            "gate": "Writing a strategy",
            "stores": "Stores",
            "clock": "Clocks",
            "events": "Events",
            "errors": "Errors",
        },
        # Its hooks are shown, which zensical.toml hides elsewhere.
        {"Strategy": ("    options:", '      filters: ["!^_"]')},
    ),
    Package(
        "llm_config_resilience.testing",
        "llm_config_resilience.testing",
        "For tests of code that uses the toolkit: no waiting, and events to look at. The same are pytest\n"
        'fixtures with `pytest_plugins = ["llm_config_resilience.testing_plugin"]`.',
        {"": "Functions"},
    ),
    Package(
        "llm_config_resilience.simulation",
        "llm_config_resilience.simulation",
        "Clients, servers, network and time simulated from a seed, to try a policy out. How to use it:\n"
        "[simulate a policy](../how-to/simulate.md).",
        {
            "clients": "Running",
            "scenario": "Scenarios",
            "servers": "Scenarios",
            "figures": "What came of it",
            "invariants": "Invariants",
            "virtual_time": "Virtual time",
        },
    ),
    Package(
        "llm_config_mock_server",
        "llm_config_mock_server",
        "The reference server for tests: the platform in miniature on a real socket, with faults on command.",
        {
            "server": "The server",
            "application": "The server",
            "faults": "Faults",
            "conditions": "Conditions",
            "journal": "The journal",
            "limiter": "Limits",
            "messages": "Limits",
        },
    ),
)


def public_names(package: Package) -> dict[str, str]:
    """Read a package's `__all__`, each name with the module below the package that it comes from."""
    module = importlib.import_module(package.name)
    tree = ast.parse(inspect.getsource(module))
    homes: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            home = node.module.removeprefix(f"{package.name}.")
            homes |= {alias.asname or alias.name: home for alias in node.names}
    exported: list[str] = module.__all__
    return {name: homes.get(name, "") for name in exported if not name.startswith("__")}


def names_page(package: Package) -> str:
    """Write the page of a package's names, grouped by where they come from."""
    groups: dict[str, list[str]] = {title: [] for title in package.sections.values()}
    for name, module in public_names(package).items():
        groups.setdefault(_section(package, module), []).append(name)
    lines = [f"# {package.title}", "", NOTE, "", package.intro, ""]
    for title, names in groups.items():
        if not names:
            continue
        lines += [f"## {title}", ""]
        for name in sorted(names, key=str.casefold):
            lines += [f"::: {package.name}.{name}", *package.options.get(name, ()), ""]
    return "\n".join(lines)


def _section(package: Package, module: str) -> str:
    found = [known for known in package.sections if module == known or module.startswith(f"{known}.")]
    if found:
        return package.sections[max(found, key=len)]
    return module.rpartition(".")[2].replace("_", " ").capitalize() or "Other names"


# --- Errors ---------------------------------------------------------------------------------------

ERRORS_INTRO: Final = """\
Every error is an `LLMConfigError`. Here is what each one means, whether it is worth another try, and what to
do next. `error.hint` says the same in a program, and `llm-config-sdk explain CODE` in a shell. How to act on
errors is in [handle errors](../how-to/errors.md).

*Retriable* says that the failure may pass. Whether repeating is safe depends on the call: reads are repeated,
writes are not, unless they provably never left. *Critical* is for alerting. Codes, categories and variants
come from the platform's Error Handling Guide, which the reference calls *the guide*.
"""
VARIANTS_INTRO: Final = """\
The variants of the platform's five error enums, as `details.module` and `details.variant` name them. A
variant's class is its code's class *and* its module's family: `except RbacError` catches a `NotFoundError`
about a user.
"""
SYSTEM_INTRO: Final = """\
An I/O error of the platform's host, by `details.kind` or by the `os error` in its message. Such an error is a
`SystemFailure` as well, is not retriable, and needs an administrator.
"""


def errors_page() -> str:
    """Write what every error means, who has to act, and what to do."""
    return "\n".join(_error_lines())


def _error_lines() -> Iterator[str]:
    yield "# Errors"
    yield f"\n{NOTE}\n"
    yield ERRORS_INTRO
    yield f"## The {len(CODES)} codes\n"
    for code, facts in CODES.items():
        cls = CODE_CLASSES[code]
        example = cls(facts.description, code=code, status=facts.status, retry_after=1.0)
        yield f"### {code.value} {{ #{code.value} }}\n"
        yield f"{facts.description}. {_marks(retriable=facts.retriable, critical=facts.critical)}\n"
        yield from _table(
            ("", ""),
            (
                ("Class", _reference(cls)),
                ("Status", f"HTTP {facts.status}"),
                ("Category", facts.category.value),
                ("Cause", _cause(cls)),
                ("Remedy", _cell(example.hint)),
                ("Variants", ", ".join(_variant_links(code)) or "none"),
            ),
        )
        yield ""
    yield f"## The {len(VARIANTS)} variants\n"
    yield VARIANTS_INTRO
    for module in Module:
        variants = [facts for facts in VARIANTS.values() if facts.module is module]
        family = f"{module.value.capitalize() if module is not Module.RBAC else 'Rbac'}Error"
        yield f"### {family} {{ #module-{module.value} }}\n"
        yield from _table(
            ("Variant", "Code", "Class", "Category", "Retriable", "Critical", "Remedy"),
            (
                (
                    f'<span id="{module.value}.{facts.variant}">`{facts.variant}`</span>',
                    f"[{facts.code.value}](#{facts.code.value})",
                    _reference(CODE_CLASSES[facts.code]),
                    facts.category.value,
                    _yes(facts.retriable),
                    _yes(facts.critical),
                    _cell(_variant_hint(facts.module, facts.variant, facts.code)),
                )
                for facts in variants
            ),
        )
        yield ""
    yield "## System failures\n"
    yield SYSTEM_INTRO
    yield from _table(
        ("Kind", "Remedy"), ((f"`{kind}`", _cell(hint)) for kind, hint in sorted(KIND_HINTS.items()))
    )
    yield "\n## Born on this side of the wire\n"
    yield "No answer, or none that can be read. These have no code and no status."
    yield "\n"
    yield from _table(
        ("Class", "Cause", "Remedy"),
        (
            (_reference(cls), _cause(cls), _cell(CLASS_HINTS[cls.__name__]))
            for cls in _classes(LLMConfigError)
            if cls.__name__ in CLASS_HINTS
        ),
    )
    yield "\n## Statuses with a remedy of their own\n"
    yield "Mostly the words of a proxy. The class follows from the status.\n"
    yield from _table(
        ("Status", "Remedy"), ((f"HTTP {status}", _cell(hint)) for status, hint in STATUS_HINTS.items())
    )
    yield ""


def _classes(root: type[LLMConfigError]) -> Iterator[type[LLMConfigError]]:
    for cls in root.__subclasses__():
        # By identity: errors with a code and a family are of classes derived as they come, of the same names.
        if _EXPORTED.get(cls.__name__) is cls:
            yield cls
        yield from _classes(cls)


_EXPORTED: Final = vars(importlib.import_module("llm_config_sdk"))


def _reference(cls: type[Any]) -> str:
    return f"[`{cls.__name__}`](llm_config_sdk.md#llm_config_sdk.{cls.__name__})"


def _cause(cls: type[Any]) -> str:
    words = (cls.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
    _, colon, rest = words.partition(": ")
    told = rest if colon and words.split(":")[0].isupper() else words
    return _cell(f"{told[0].upper()}{told[1:]}")


def _variant_links(code: ErrorCode) -> Iterator[str]:
    for facts in VARIANTS.values():
        if facts.code is code:
            name = f"{facts.module.value}.{facts.variant}"
            yield f"[`{name}`](#{name})"


def _variant_hint(module: Module, variant: str, code: ErrorCode) -> str:
    facts = CODES[code]
    details = {"module": module.value, "variant": variant}
    return CODE_CLASSES[code](facts.description, code=code, status=facts.status, details=details).hint


def _marks(*, retriable: bool, critical: bool) -> str:
    words = ["**Retriable.**" if retriable else "Not retriable."]
    words += ["**Critical.**"] if critical else []
    return " ".join(words)


def _yes(fact: bool) -> str:  # noqa: FBT001  # it is the fact to be worded
    return "yes" if fact else "no"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---' for _ in head)}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


# --- Settings -------------------------------------------------------------------------------------


#: Settings that an argument of another name takes, beside other things or together with others.
_ARGUMENT_OF: Final = {
    "ca_bundle": "verify",
    "client_cert": "cert",
    "client_key": "cert",
    "client_key_password": "cert",
}


def settings_page() -> str:
    """Write what the environment may set."""
    prefix = settings.ENV_PREFIX
    told = _attributes(settings.ClientSettings.__doc__ or "")
    rows = []
    for name, setting in settings.ClientSettings.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        default = setting.default
        shown = "none" if default in {None, ()} else f"`{getattr(default, 'value', default)}`"
        meaning = told[name].partition(": ")[2] or told[name]
        cell = f"{meaning[0].upper()}{meaning[1:]}"
        argument = _ARGUMENT_OF.get(name, name)
        rows.append((f'<span id="{variable}">`{variable}`</span>', f"`{argument}=`", cell, shown))
    lines = [
        "# Settings",
        "",
        NOTE,
        "",
        "A client's arguments win over these environment variables; an empty variable counts as none. They",
        "are read once, when the client is made. A value that cannot be used raises `InvalidRequestError`,",
        "which names the variable. A variable of another name is not read; if it looks misspelt, a client",
        "logs a warning, and the command line says so. Proxies come from `HTTP_PROXY`, `HTTPS_PROXY`,",
        "`ALL_PROXY` and `NO_PROXY`.",
        "",
        *_table(("Variable", "Argument", "Meaning", "Default"), rows),
        "",
        "The command line takes the same variables; see [commands](commands.md).",
        "",
    ]
    return "\n".join(lines)


def _attributes(docstring: str) -> dict[str, str]:
    """Read the `Attributes:` of a docstring."""
    _, _, text = docstring.partition("Attributes:")
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        head, colon, rest = line.strip().partition(": ")
        if colon and head.isidentifier():
            name, found[head] = head, rest.replace("`", "").strip()
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found


# --- Commands -------------------------------------------------------------------------------------


def commands_page() -> str:
    """Write every command with what its `--help` says."""
    from llm_config_sdk.cli.app import app  # noqa: PLC0415  # typer costs a while

    names = [str(command.name) for command in app.registered_commands]
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "What `--help` says of each command, as captured from a run. How to use",
    ]
    lines += ["them together is in [use the command line](../how-to/command-line.md).", ""]
    lines += ["## llm-config-sdk { #llm-config-sdk }", "", *_help_block([])]
    for name in names:
        lines += [f"## {name} {{ #{name} }}", "", *_help_block([name])]
    return "\n".join(lines)


def _help_block(words: Sequence[str]) -> Iterator[str]:
    yield "```text"
    yield from captured_help(words).splitlines()
    yield "```\n"


def captured_help(words: Sequence[str]) -> str:
    """Run a command with `--help`, and return what it prints."""
    import rich.console  # noqa: F401, PLC0415  # before the environment says how wide a terminal is
    from typer.testing import CliRunner  # noqa: PLC0415

    from llm_config_sdk.cli.app import app  # noqa: PLC0415

    environment = {"COLUMNS": str(HELP_COLUMNS), "TERMINAL_WIDTH": str(HELP_COLUMNS), "NO_COLOR": "1"}
    environment |= {"FORCE_COLOR": "", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="llm-config-sdk", env=environment)
    if result.exit_code != 0:
        raise RuntimeError(f"{' '.join(words)} --help failed: {result.output}")
    lines = [line.rstrip() for line in result.stdout.strip("\n").splitlines()]
    return "\n".join(line for at, line in enumerate(lines) if line or (at and lines[at - 1])).strip()


# --- All of them ----------------------------------------------------------------------------------


def pages() -> dict[Path, Callable[[], str]]:
    """Name every page that is made of the code, and how."""
    made: dict[Path, Callable[[], str]] = {
        REFERENCE / "errors.md": errors_page,
        REFERENCE / "settings.md": settings_page,
        REFERENCE / "commands.md": commands_page,
    }
    for package in PACKAGES:
        made[REFERENCE / f"{package.name}.md"] = lambda package=package: names_page(package)
    return made


def main() -> None:
    """Write every page that differs from what is there."""
    for path, make in pages().items():
        text = f"{make().strip()}\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    os.umask(0o022)
    main()
