"""How the documentation is run: every block of a page, in order, in one namespace, against real servers.

`docs/explanation/documentation.md` tells readers the same.
"""

import contextlib
import io
import itertools
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser
from typer.testing import CliRunner

from llm_config_mock_server import MockServer
from llm_config_sdk.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GENERATED = frozenset({"errors.md", "settings.md", "commands.md"})

PLAIN_TERMINAL = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
LANGUAGES_RUN = ("python", "console", "output")
OUR_PROGRAMS = frozenset({"llm-config-sdk", "python", "python3"})
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
#: Before a command that would go on for ever; an entry may change while it runs.
UNTIL_SHOWN = re.compile(
    r"<!-- run until this is shown"
    r"(?:; meanwhile (?P<namespace>\S+) (?P<key>\S+) becomes (?P<value>\S+))? -->\s*\Z"
)
PORT = "8080"  # that pages name
SNIPPET = re.compile(r'--8<-- "(?P<path>docs/examples/[^":]+)"\n')
FENCE = re.compile(r"^ {0,12}(?P<ticks>```+)(?P<info>[^`\n]*)$", re.MULTILINE)
NEEDS_A_SHELL = re.compile(r"[;|&<>$`*\\]")
PYTEST_OPTIONS = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")
PROGRAM_TIMEOUT = 120.0  # seconds: far beyond what any command of a page needs


def all_pages() -> list[Path]:
    """Every Markdown page that readers are given."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Every fenced block: its info string, and what is between the fences."""
    opened: tuple[str, str, int] | None = None
    for match in FENCE.finditer(text):
        if opened is None:
            opened = (match["ticks"], match["info"].strip(), match.end())
        elif match["ticks"] == opened[0] and not match["info"].strip():
            yield opened[1], text[opened[2] : match.start()]
            opened = None


def without_fences(text: str) -> str:
    """A page's prose, with every fenced block taken out."""
    lines, closing = [], ""
    for line in text.splitlines():
        fence = re.match(r" *(```+)", line)
        if closing:
            closing = "" if line.strip() == closing else closing
        elif fence:
            closing = fence[1]
        else:
            lines.append(line)
    return "\n".join(lines)


def matches(expected: str, found: str) -> bool:
    """Whether an output is the one shown; `…` in it stands for anything, a line of it for any lines."""
    pattern = ".*?".join(re.escape(part) for part in _tidy(expected).split("…"))
    return re.fullmatch(pattern, _tidy(found), re.DOTALL) is not None


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


@dataclass
class World:
    """What surrounds a page while it runs.

    `https://config.example.com` and `https://backup.example.com` stand for two reference servers with the
    same entries, and `token="…"` for a token of an admin; outputs are translated back.
    """

    primary: MockServer
    backup: MockServer
    folder: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = {
            "LLM_CONFIG_BASE_URL": self.primary.url,
            "LLM_CONFIG_TOKEN": self.primary.token("admin"),
            "LLM_CONFIG_ENVIRONMENT": "production",
        }

    def real(self, text: str) -> str:
        """Put the servers that run in the place of the ones on the page."""
        return (
            text.replace("https://config.example.com", self.primary.url)
            .replace("https://backup.example.com", self.backup.url)
            .replace('token="…"', f'token="{self.primary.token("admin")}"')
        )

    def shown(self, text: str) -> str:
        """Translate an output into what the page may show."""
        return text.replace(self.primary.url, "https://config.example.com").replace(
            self.backup.url, "https://backup.example.com"
        )


@contextlib.contextmanager
def a_world(folder: Path) -> Iterator[World]:
    """Two reference servers with the entries that pages speak of."""
    with MockServer(seed=1) as primary, MockServer(seed=1) as backup:
        for server in (primary, backup):
            for env in ("development", "staging", "production"):
                server.put("app/llm", "model", "gpt-4", env=env)
                server.put("app/llm", "temperature", 0.7, env=env)
                server.put("app/llm", "max_tokens", 512, env=env)
                server.put("prod/api", "endpoint", "https://api.example.com/v1", env=env)
        yield World(primary, backup, folder)


class PageRunner:
    """Runs one page."""

    def __init__(self, path: Path, world: World) -> None:
        self.path = path
        self.world = world
        self.printed = ""
        self.unshown = ""  # what the last block printed, until an output block shows it
        self.tests: list[str] = []
        self._python = PythonEvaluator()
        self.document = Document.parse(
            str(path),
            CodeBlockParser("python", self.run_python),
            CodeBlockParser("output", self.compare),
            CodeBlockParser("console", self.run_console),
        )
        self.document.namespace["__name__"] = "page"

    def run(self) -> int:
        """Run every block; return how many there were."""
        examples = list(self.document.examples())
        for example in examples:
            example.evaluate()
        self._all_is_shown()
        if self.tests:
            self._run_tests()
        return len(examples)

    def run_python(self, example: Example) -> str | None:
        source = str(example.parsed)
        self._all_is_shown()
        if self._is_not_run(example):
            return None
        if re.search(r"^(async )?def test_", source, re.MULTILINE):
            self.tests.append(self.world.real(source))
            return None
        example.parsed = type(example.parsed)(
            self.world.real(source), example.parsed.offset, example.parsed.line_offset
        )
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self._python(example)
        self.printed = self.unshown = self.world.shown(out.getvalue())
        return None

    def _all_is_shown(self) -> None:
        assert not self.unshown.strip(), f"no output block shows what a block printed:\n{self.unshown}"

    def compare(self, example: Example) -> str | None:
        self.unshown = ""
        if matches(str(example.parsed), self.printed):
            return None
        return f"the page shows\n{example.parsed}\nand the block before it printed\n{self.printed}"

    def run_console(self, example: Example) -> str | None:
        if self._is_not_run(example):
            return None
        if until := UNTIL_SHOWN.search(self.document.text[: example.start]):
            return self._run_until_shown(str(example.parsed), until)
        for command, expected in _commands(str(example.parsed)):
            words = command.split()
            program = next(word for word in words if "=" not in word)
            if program not in OUR_PROGRAMS:
                if expected.strip():
                    return f"{program}'s output is shown and cannot be checked: mark it <!-- not run: why -->"
                continue
            status, found = self._run(command)
            if not expected.strip():  # nothing is claimed but that it works
                if status:
                    return f"$ {command}\nended with status {status}:\n{found}"
            elif not matches(expected, found):
                return f"$ {command}\nthe page shows\n{expected}\nand the command printed\n{found}"
        return None

    def _run_until_shown(self, block: str, until: "re.Match[str]") -> str | None:
        ((command, expected),) = _commands(block)
        port = str(free_port())
        requests = len(self.world.primary.journal)
        with subprocess.Popen(
            ["bash", "-c", f"exec {self.world.real(command).replace(PORT, port)}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            cwd=self.world.folder,
            env=program_environment(self.world.environment),
        ) as running:
            giving_up = threading.Timer(PROGRAM_TIMEOUT, running.kill)
            giving_up.start()
            try:
                if until["key"]:
                    self.world.primary.journal.wait_for(requests + 1, timeout=PROGRAM_TIMEOUT)
                    self.world.primary.put(until["namespace"], until["key"], until["value"], env="production")
                lines = list(itertools.islice(running.stdout or (), len(expected.strip().splitlines())))
            finally:
                running.terminate()  # not an interrupt: what is started in the background may ignore that
                running.wait()
                giving_up.cancel()
        found = self.world.shown("".join(lines)).replace(port, PORT)
        if matches(expected, found):
            return None
        return f"$ {command}\nthe page shows\n{expected}\nand the command printed\n{found}"

    def _run(self, command: str) -> tuple[int, str]:
        command = self.world.real(command)
        words = shlex.split(command)
        if words[0] == "llm-config-sdk" and not NEEDS_A_SHELL.search(command):  # a start costs a second
            environment = {**self.world.environment, **PLAIN_TERMINAL}
            result = CliRunner().invoke(app, words[1:], prog_name=words[0], env=environment)
            return result.exit_code, self.world.shown(result.output)
        ended = subprocess.run(
            ["bash", "-c", command],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            cwd=self.world.folder,
            timeout=PROGRAM_TIMEOUT,
            env=program_environment(self.world.environment),
        )
        return ended.returncode, self.world.shown(ended.stdout)

    def _run_tests(self) -> None:
        """Run the tests that a page shows, as its reader would."""
        module = self.world.folder / "test_page.py"
        module.write_text("\n\n".join(self.tests))
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", *PYTEST_OPTIONS, str(module)],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            cwd=self.world.folder,
            timeout=PROGRAM_TIMEOUT,
            env=program_environment(self.world.environment),
        )
        assert ended.returncode == 0, ended.stdout

    def _is_not_run(self, example: Example) -> bool:
        return NOT_RUN.search(self.document.text[: example.start]) is not None


def free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def program_environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a program that a page or a test starts: this interpreter, and no colours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_CONFIG_")}
    return {
        **inherited,
        **settings,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        **PLAIN_TERMINAL,
    }


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Read `$ ` lines, each with the output below it; after a final backslash a command goes on."""
    command, output = "", []
    for line in block.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, "\n".join(output)
            command, output = line.removeprefix("$ ").partition("  # ")[0], []
        elif command.endswith("\\"):
            command = f"{command[:-1]}{line.removeprefix('> ').strip()}"
        else:
            output.append(line)
    if command:
        yield command, "\n".join(output)
