#!/usr/bin/env python3
"""What has to hold before a release: `make release-check`.

Each part says what it looks at; any of them can be run alone:

    make release-check PARTS="build metadata" PYTHONS="3.12 3.13" EXTRAS="redis otel"

All but `build` look at what is in dist/. What passed is in dist/ as well: the sdist, the wheel, the bill of
materials, and the digests of all three.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from interpreters import Interpreter, claimed, find
from packaging.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
DIST: Final = ROOT / "dist"
CONSTRAINTS: Final = ROOT / "constraints.txt"
VERSION_FILE: Final = ROOT / "sdk" / "llm_config_sdk" / "_version.py"
TEST_GROUP: Final = f"{ROOT / 'pyproject.toml'}:test"

NAME: Final = "llm-config-sdk"
STEM: Final = "llm_config_sdk"  # of the files' names
PACKAGES: Final = ("llm_config_sdk", "llm_config_resilience", "llm_config_mock_server")
SOURCE_ROOTS: Final = ("sdk", "resilience", "mock_server")
CORE: Final = "core"  # the wheel without any extra
JUST_BROUGHT: Final = {"plots"}  # its program draws by the library itself; the command line names the extra
# Part of a namespace package that has its marker of PEP 561 beside it and not in it, where checkers look.
UNMARKED: Final = ("openfeature/provider",)
ELSEWHERE: Final = "The same sources, in another folder, with other times, another umask, zone and hash seed"


class CheckFailedError(Exception):
    """Something does not hold; the message says what."""


@dataclass(slots=True)
class Step:
    """What was looked at, and what came of it.

    Attributes:
        name: What is claimed.
        outcome: `ok`, `FAILED` or `skipped`.
        seconds: How long it took.
        note: Why it failed or was skipped.
    """

    name: str
    outcome: str = "ok"
    seconds: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        line = f"  {self.outcome:<8}{self.seconds:>7.1f} s  {self.name}"
        return f"{line}: {self.note}" if self.outcome == "skipped" else line


@dataclass
class Run:
    """One run of the checks.

    Attributes:
        work: A folder of its own, far from the sources; gone when the run is over.
        pythons: The interpreters to check with, oldest first.
        extras: Which extras to install, `core` for none of them; empty for all.
        tag: The tag that is to be released, if one is.
        steps: What was looked at so far.
        began: When, by the monotonic clock.
    """

    work: Path
    pythons: Sequence[Interpreter]
    extras: Sequence[str]
    tag: str | None
    steps: list[Step] = field(default_factory=list[Step])
    began: float = field(default_factory=time.monotonic)
    _wheelhouses: dict[str, Path] = field(default_factory=dict[str, Path])
    _environments: dict[str, Path] = field(default_factory=dict[str, Path])

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[Step]:
        """Look at one thing: time it, and record what came of it."""
        step, began = Step(name), time.monotonic()
        self.steps.append(step)
        try:
            yield step
        except CheckFailedError as failure:
            step.outcome, step.note = "FAILED", str(failure)
        finally:
            step.seconds = time.monotonic() - began
            tell(str(step))
            if step.outcome == "FAILED":
                tell("".join(f"      {line}\n" for line in step.note.splitlines()).rstrip())

    def skip(self, name: str, why: str) -> None:
        """Say what was not looked at."""
        self.steps.append(Step(name, "skipped", note=why))
        tell(str(self.steps[-1]))

    @property
    def failed(self) -> bool:
        """Whether anything does not hold."""
        return any(step.outcome == "FAILED" for step in self.steps)

    def environment(self, python: Interpreter, extra: str, *more: str) -> Path:
        """Make an empty environment, install the wheel into it, and return its interpreter.

        Parts share it: none of them installs anything else into it.

        Args:
            python: What it is made with.
            extra: What the wheel is installed with, `core` for nothing.
            *more: What else pip is to install.

        Raises:
            CheckFailedError: It cannot be installed; its last lines say why.
        """
        name = "-".join([python.minor, extra, *(["more"] if more else [])])
        if name not in self._environments:
            house = self.wheelhouse(python)
            folder = self.work / name
            call(python.path, "-m", "venv", "--without-pip", folder)
            inside = folder / "bin" / "python"
            pip(inside, "install", "--no-index", "--find-links", house, requirement(extra), *more)
            self._environments[name] = inside
        return self._environments[name]

    def wheelhouse(self, python: Interpreter) -> Path:
        """Collect the wheels of everything that any environment of a Python needs, once."""
        if python.minor not in self._wheelhouses:
            asking = self.work / f"asking-{python.minor}"
            call(python.path, "-m", "venv", "--without-pip", asking)
            with self.step(
                f"Python {python.release}: collect the wheels of all extras and of the tests"
            ) as step:
                house = self.work / f"wheels-{python.minor}"
                pip(
                    asking / "bin" / "python",
                    *("wheel", "--wheel-dir", house, f"{wheel()}[all]", "--group", TEST_GROUP),
                )
                self._wheelhouses[python.minor] = house
            if step.outcome == "FAILED":
                raise CheckFailedError("without these wheels there is nothing to install")
        return self._wheelhouses[python.minor]


# --- The parts ------------------------------------------------------------------------------------


def build(run: Run) -> None:
    """Build sdist and wheel twice, under different circumstances: the bytes are the same."""
    when = os.environ.get("SOURCE_DATE_EPOCH") or _time_of_the_sources()
    for old in (*DIST.glob(f"{STEM}-*"), DIST / "SHA256SUMS"):
        old.unlink(missing_ok=True)
    here = {"SOURCE_DATE_EPOCH": when, "PIP_CONSTRAINT": str(CONSTRAINTS)}
    with run.step("The sdist from the sources, the wheel from the sdist"):
        call(sys.executable, "-m", "build", "--outdir", DIST, ROOT, add=here)
    if run.failed:
        return
    with run.step(ELSEWHERE):
        copy = run.work / "somewhere" / "else"
        copy_sources(copy)
        there = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "7", **here}
        again = run.work / "dist"
        call(sys.executable, "-m", "build", "--outdir", again, copy, add=there, umask=0o077)
        for artefact in (sdist(), wheel()):
            difference(artefact, again / artefact.name)


def metadata(run: Run) -> None:
    """Check what an index will show: metadata, the rendered README, one version, the files inside."""
    artefacts = [sdist(), wheel()]
    with run.step("twine check --strict"):
        call(sys.executable, "-m", "twine", "check", "--strict", *artefacts)
    with run.step("The metadata is valid, and says what the project claims"):
        told = read_metadata(wheel())
        expect(str(told.version), current_version(), "the wheel's version")
        expect(str(told.requires_python), f">={claimed(ROOT / 'pyproject.toml')[0]}", "Requires-Python")
        expect(told.license_expression, "Apache-2.0", "the licence")
        expect(set(told.provides_extra or ()), set(extras()), "the extras")
    with run.step("The README renders, and has no link that leads nowhere on an index's page"):
        from readme_renderer import markdown  # noqa: PLC0415  # of the group `release`

        description = read_metadata(wheel()).description or ""
        rendered = markdown.render(description)
        if rendered is None:
            raise CheckFailedError("it does not render")
        relative = [link for link in links(rendered) if not urlsplit(link).scheme and link[:1] != "#"]
        expect(relative, [], "links relative to a repository")
    with run.step("The wheel has the three packages, typed, and nothing else"):
        names = zipfile.ZipFile(wheel()).namelist()
        information = f"{STEM}-{current_version()}.dist-info"
        expect({name.partition("/")[0] for name in names}, {*PACKAGES, information}, "its folders")
        expect([name for name in names if name.endswith((".pyc", ".orig", "~"))], [], "litter")
        for package in PACKAGES:
            expect(f"{package}/py.typed" in names, True, f"{package}/py.typed")
    with run.step("The version stands in one place"):
        number = re.compile(rf"\b{re.escape(current_version())}\b")
        places = [path for path in _places_of_a_version() if number.search(path.read_text(errors="replace"))]
        expect(places, [VERSION_FILE], "files that name it")
    if run.tag is not None:
        with run.step(f"The tag {run.tag} is the version's, and the changelog has it"):
            expect(run.tag, f"v{current_version()}", "the tag")
            heading = rf"^## \[{re.escape(current_version())}\] - \d{{4}}-\d\d-\d\d$"
            if not re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE):
                raise CheckFailedError(f"CHANGELOG.md has no dated section for {current_version()}")


def install(run: Run) -> None:
    """Install the wheel with each extra into empty environments: each does what it is for, alone."""
    wanted = run.extras or (CORE, *extras())
    for python in run.pythons:
        run.wheelhouse(python)
        for extra in wanted:
            with run.step(f"Python {python.minor}: the wheel {'alone' if extra == CORE else f'[{extra}]'}"):
                prove(run.environment(python, extra), extra)
        if CORE in wanted:
            with run.step(f"Python {python.minor}: what is missing is named with the extra to install"):
                for extra in extras():
                    if extra not in JUST_BROUGHT:
                        name_what_is_missing(run.environment(python, CORE), extra)


def types(run: Run) -> None:
    """Run the type checkers on a project that uses the installed wheel, and on the packages' public types."""
    inside = run.environment(run.pythons[0], "all")
    project = run.work / "consumer"
    shutil.copytree(HERE / "consumer", project)
    for minor in (python.minor for python in run.pythons):
        with run.step(f"A consumer's project under mypy --strict, for Python {minor}"):
            strict = ("--strict", "--warn-unused-ignores", "--python-executable", inside)
            call(sys.executable, "-m", "mypy", *strict, "--python-version", minor, project, cwd=project)
        with run.step(f"The same under pyright, strict, for Python {minor}"):
            call(
                *(sys.executable, "-m", "pyright", "--pythonpath", inside, "--pythonversion", minor),
                cwd=project,
            )
    for package in PACKAGES:
        with run.step(f"Every public name of {package} has a type that is known, and a docstring"):
            if found := incomplete(inside, package):
                raise CheckFailedError("\n".join(found))


def sbom(run: Run) -> None:
    """Write the bill of materials of the wheel with all extras, and the digests of all artefacts."""
    bill = DIST / f"{STEM}-{current_version()}.cdx.json"
    with run.step(f"{bill.name}, by CycloneDX"):
        inside = run.environment(run.pythons[0], "all")
        options = ("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--output-reproducible")
        call(sys.executable, "-m", "cyclonedx_py", "environment", *options, "--output-file", bill, inside)
        told = bill.read_text()
        for needed in _core_requirements():
            if f'"name": "{needed}"' not in told.lower():
                raise CheckFailedError(f"it does not name {needed}")
        if str(run.work) in told:
            raise CheckFailedError("it names a path of this machine")
    with run.step("SHA256SUMS"):
        lines = [f"{digest(path)}  {path.name}\n" for path in (sdist(), wheel(), bill)]
        (DIST / "SHA256SUMS").write_text("".join(lines))


def tests(run: Run) -> None:
    """Run the tests of the sdist against the installed wheel, with the sources out of the way."""
    for python in run.pythons:
        inside = run.environment(python, "all", "--group", TEST_GROUP)
        place = run.work / f"sdist-{python.minor}"
        with tarfile.open(sdist()) as archive:
            archive.extractall(place, filter="data")
        (unpacked,) = place.iterdir()
        for folder in SOURCE_ROOTS:
            shutil.rmtree(unpacked / folder)
        with run.step(f"Python {python.minor}: what is imported is the installed wheel"):
            for package in PACKAGES:
                file = call(
                    inside, "-c", f"import {package}; print({package}.__file__)", cwd=unpacked
                ).strip()
                expect("site-packages" in Path(file).parts, True, f"{file} in site-packages")
        with run.step(f"Python {python.release}: the tests, against the wheel"):
            options = os.environ.get("PYTEST_ARGS", "-n 2").split()
            call(inside, "-m", "pytest", "-p", "no:cacheprovider", *options, cwd=unpacked, show=True)


PARTS: Final[Mapping[str, Callable[[Run], None]]] = {
    part.__name__: part for part in (build, metadata, install, types, sbom, tests)
}


# --- What they look at ----------------------------------------------------------------------------


def current_version() -> str:
    """Read the one place that has it."""
    match = re.search(r'__version__[^"]*"([^"]+)"', VERSION_FILE.read_text())
    if match is None:
        raise CheckFailedError(f"{VERSION_FILE} names no version")
    return match[1]


def sdist() -> Path:
    """The source distribution in dist/."""
    return _artefact(f"{STEM}-{current_version()}.tar.gz")


def wheel() -> Path:
    """The wheel in dist/."""
    return _artefact(f"{STEM}-{current_version()}-py3-none-any.whl")


def _artefact(name: str) -> Path:
    path = DIST / name
    if not path.exists():
        raise CheckFailedError(f"there is no {path}: run the part `build` first")
    return path


def requirement(extra: str) -> str:
    """The distribution by name and version, so that pip records no path of this machine."""
    return f"{NAME}{'' if extra == CORE else f'[{extra}]'}=={current_version()}"


def extras() -> list[str]:
    """The extras that `pyproject.toml` offers, sorted."""
    return sorted(_project()["optional-dependencies"])


def _project() -> dict[str, Any]:
    told: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return told


def _core_requirements() -> list[str]:
    return [re.split(r"[<>=!~\[; ]", line)[0] for line in _project()["dependencies"]]


def read_metadata(path: Path) -> Metadata:
    """Read a wheel's metadata, every field of it valid."""
    with zipfile.ZipFile(path) as archive:
        told = archive.read(f"{STEM}-{current_version()}.dist-info/METADATA")
    return Metadata.from_email(told, validate=True)


def _places_of_a_version() -> list[Path]:
    folders = [path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py")]
    return [*folders, ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "Makefile"]


def links(html: str) -> list[str]:
    """Where the links of a page lead."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in {"href", "src"})

    Reader().feed(html)
    return found


def incomplete(inside: Path, package: str) -> list[str]:
    """What pyright finds missing in the public types and docstrings of an installed package.

    Args:
        inside: The interpreter that the package is installed for.
        package: Its import name.
    """
    command = [sys.executable, "-m", "pyright", "--outputjson", "--ignoreexternal", "--verifytypes", package]
    (site,) = inside.parent.parent.glob("lib/python*/site-packages")
    for part in UNMARKED:
        if (site / part).is_dir():
            (site / part / "py.typed").touch()
    path = f"{inside.parent}{os.pathsep}{os.environ['PATH']}"  # where it looks for the interpreter
    ended = subprocess.run(
        command,
        check=False,
        capture_output=True,
        encoding="utf-8",
        cwd=inside.parent,
        env=surroundings({"PATH": path}),
    )
    told: dict[str, Any] = json.loads(ended.stdout)["typeCompleteness"]
    found = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in told["symbols"]
        for diagnostic in symbol.get("diagnostics", ())
    ]
    return found if told["symbols"] else ["no symbols: it is not installed, or not typed"]


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def difference(one: Path, other: Path) -> None:
    """Raise `CheckFailedError` if two archives are not the same bytes, naming the members that differ."""
    if digest(one) == digest(other):
        return
    ours, theirs = members(one), members(other)
    told = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    raise CheckFailedError(f"{one.name} differs in {', '.join(told) or 'the order or times of its members'}")


def members(archive: Path) -> dict[str, tuple[int, int, str]]:
    """The mode, the size and the digest of every member of an archive, by name."""
    found: dict[str, tuple[int, int, str]] = {}
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                content = hashlib.sha256(zipped.read(entry)).hexdigest()
                found[entry.filename] = (entry.external_attr, entry.file_size, content)
        return found
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            file = packed.extractfile(member)
            content = hashlib.sha256(file.read()).hexdigest() if file else ""
            found[member.name] = (member.mode, member.size, content)
    return found


def copy_sources(target: Path) -> None:
    """Copy what git knows of, or everything where there is no git: an sdist is itself the sources."""
    if (ROOT / ".git").exists():
        names = call("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
        for name in names:
            if (source := ROOT / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target / name)
                (target / name).chmod(source.stat().st_mode)
    else:
        ignore = shutil.ignore_patterns(".venv", "dist", "build", "site", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, target, ignore=ignore, copy_function=shutil.copy)


def _time_of_the_sources() -> str:
    """Seconds since 1970: of the last commit, or of the changelog where there is no git."""
    if (ROOT / ".git").exists():
        return call("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()
    return str(int((ROOT / "CHANGELOG.md").stat().st_mtime))


def prove(inside: Path, extra: str) -> None:
    """Run the program that shows what an extra is for, from a folder with nothing in it."""
    with tempfile.TemporaryDirectory() as empty:
        call(inside, "-P", "-W", "error", HERE / "extras" / f"{extra}.py", cwd=empty)


def name_what_is_missing(inside: Path, extra: str) -> None:
    """Without its extra, the same program ends with a message that names it."""
    with tempfile.TemporaryDirectory() as empty:
        program = [str(inside), "-P", str(HERE / "extras" / f"{extra}.py")]
        ended = subprocess.run(
            program, check=False, capture_output=True, encoding="utf-8", cwd=empty, env=surroundings()
        )
    if ended.returncode == 0:
        raise CheckFailedError(f"extras/{extra}.py works without the extra: it proves nothing")
    if "llm-config-sdk[" not in ended.stderr:
        raise CheckFailedError(f"[{extra}] is missing, and the message does not say so:\n{ended.stderr}")


def expect(found: object, wanted: object, what: str) -> None:
    """Raise `CheckFailedError` unless two things are equal."""
    if found != wanted:
        raise CheckFailedError(f"{what}: {found!r}, and not {wanted!r}")


# --- Programs -------------------------------------------------------------------------------------


def pip(inside: Path, *arguments: str | Path) -> None:
    """Have this environment's pip work on another one."""
    call(sys.executable, "-m", "pip", "--quiet", "--python", inside, *arguments, "--constraint", CONSTRAINTS)


def surroundings(add: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program: nothing that leads it to these sources."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "LLM_CONFIG_")) and name not in {"VIRTUAL_ENV", "MYPYPATH"}
    }
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **(add or {})}


def call(
    *command: str | Path,
    cwd: Path | str = ROOT,
    add: Mapping[str, str] | None = None,
    umask: int = -1,
    show: bool = False,
) -> str:
    """Run a program; return what it printed, or raise `CheckFailedError` with it.

    Args:
        *command: The program and its arguments.
        cwd: Where it runs.
        add: What its environment has beside the usual.
        umask: The mask for the files that it makes; -1 for ours.
        show: Whether what it prints is shown as it comes, and not returned.
    """
    ended = subprocess.run(
        [str(word) for word in command],
        check=False,
        cwd=cwd,
        env=surroundings(add),
        umask=umask,
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.STDOUT,
        encoding="utf-8",
    )
    if ended.returncode:
        raise CheckFailedError(f"{command[0]} ended with status {ended.returncode}\n{ended.stdout or ''}")
    return ended.stdout or ""


def tell(line: str) -> None:
    """Print at once: a run takes a while."""
    print(line, flush=True)  # noqa: T201


# --- The command ----------------------------------------------------------------------------------


def choose(wanted: Sequence[str]) -> tuple[list[Interpreter], list[str]]:
    """Find the interpreters to check with; return them, and the versions that are not there.

    Args:
        wanted: Versions asked for; empty for all that the project claims.
    """
    found: list[Interpreter] = []
    missing: list[str] = []
    for minor in wanted or claimed(ROOT / "pyproject.toml"):
        python = find(minor)
        if python is None:
            missing.append(minor)
        else:
            found.append(python)
    return found, missing


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    told = "\n".join(f"  {name:<10}{part.__doc__}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"parts:\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to check; all, unless any is named")
    parser.add_argument(
        "--pythons", nargs="*", default=[], metavar="3.X", help="versions; all that are claimed"
    )
    parser.add_argument("--extras", nargs="*", default=[], help=f"extras, or {CORE!r} for none; all of them")
    parser.add_argument("--tag", default=os.environ.get("RELEASE_TAG") or None, help="what is to be released")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    if unknown := [extra for extra in options.extras if extra not in {CORE, *extras()}]:
        parser.error(f"there is no extra {', '.join(unknown)}: choose from {', '.join((CORE, *extras()))}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; return the exit status."""
    options = read_arguments(arguments)
    pythons, missing = choose(options.pythons)
    if not pythons or (missing and options.pythons):
        tell(f"there is no Python {', '.join(missing)} here")
        return 2
    with tempfile.TemporaryDirectory(prefix="release-check-") as folder:
        run = Run(Path(folder), pythons, options.extras, options.tag)
        for minor in missing:
            run.skip(f"Python {minor}", "this machine does not have it")
        for name in options.parts or PARTS:
            tell(f"\n{name}: {PARTS[name].__doc__}")
            try:
                PARTS[name](run)
            except CheckFailedError as failure:
                run.steps.append(Step(f"{name} came to an end", "FAILED", note=str(failure)))
                tell(f"{run.steps[-1]}\n{failure}")
            if name == "build" and run.failed:
                break  # there is nothing to look at
    return summary(run)


def summary(run: Run) -> int:
    """Print what came of it all; return the exit status."""
    count = {
        outcome: sum(step.outcome == outcome for step in run.steps) for outcome in ("ok", "FAILED", "skipped")
    }
    tell(f"\n{', '.join(f'{number} {outcome}' for outcome, number in count.items() if number)}")
    pythons = ", ".join(python.release for python in run.pythons)
    tell(f"{time.monotonic() - run.began:.0f} s, with Python {pythons}")
    for step in run.steps:
        if step.outcome != "ok":
            tell(str(step))
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
