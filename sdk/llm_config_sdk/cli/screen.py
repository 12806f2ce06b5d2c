"""The demo on the screen: each step as it happens, and a table that sums it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llm_config_sdk.cli.output import inert
from llm_config_sdk.cli.stage import FACES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from llm_config_sdk.cli.checks import Check
    from llm_config_sdk.cli.stage import Ran
    from llm_config_sdk.cli.story import Played

_INDENT: Final = 3  # columns
_LABEL: Final = 13  # columns that "sync, async" fits into
_NARROWEST: Final = 20  # columns that text is given however narrow the terminal
_TELLING: Final = 64  # characters: what is longer was printed by the step's own lines
_TRUISMS: Final = frozenset({"True", "False"})
_MILLISECONDS: Final = 1000


class Screen:
    """Shows the story in a terminal; readable without colours, and at any width.

    Args:
        paper: The console.
    """

    def __init__(self, paper: Console) -> None:
        self._paper = paper
        can_draw = paper.encoding.lower().startswith("utf")
        self._yes, self._no = ("✓", "✗") if can_draw else ("ok", "NO")
        self._line = "─" if can_draw else "-"

    def open(self, primary: str, backup: str) -> None:
        """Begin."""
        self._paper.print(Text.assemble(("llm-config-sdk", "bold"), ": reads that survive their servers"))
        self._put(Text(f"primary {primary}"))
        self._put(Text(f"backup  {backup}"))
        self._put(Text("Each step's lines run as shown, and again with AsyncConfigClient and await."))

    def show(self, played: Played) -> None:
        """Show a step."""
        step = played.step
        heading = Text(f"{played.number} {step.title}", style="bold cyan")
        self._paper.print()
        self._paper.print(Rule(heading, align="left", characters=self._line, style="cyan"))
        self._put(Text(step.says))
        self._paper.print()
        code = Syntax("", "python", theme="ansi_dark").highlight(step.code)
        code.rstrip()
        for line in code.split():
            self._put(line, indent=2 * _INDENT)
        self._paper.print()
        self._outputs(played.runs)
        self._checks(played.checks)

    def close(self, story: Sequence[Played], seconds: float) -> None:
        """Sum up."""
        summary = Table(title=Text("What held", style="bold"), title_justify="left")
        summary.add_column("#", justify="right")
        summary.add_column("step", overflow="fold")
        for face in FACES:
            summary.add_column(face, justify="right")
        summary.add_column("time", justify="right", no_wrap=True)
        for played in story:
            summary.add_row(
                str(played.number),
                Text(played.step.title),
                *(self._count(checks) for checks in played.checks),
                f"{played.seconds * _MILLISECONDS:.0f} ms",
            )
        self._paper.print()
        self._paper.print(summary)
        checks = [check for played in story for checks in played.checks for check in checks]
        failed = [check for check in checks if not check.holds]
        if failed:
            words = f"{len(failed)} of {len(checks)} claims do NOT hold; {seconds:.1f} s."
            self._paper.print(Text(words, style="bold red"))
        else:
            words = f"All {len(checks)} claims hold, sync and async; {seconds:.1f} s."
            self._paper.print(Text(words, style="bold green"))

    def _outputs(self, runs: Sequence[Ran]) -> None:
        same = len({run.printed for run in runs}) == 1
        for run in runs[:1] if same else runs:
            label = ", ".join(FACES) if same else run.face
            for number, line in enumerate(run.printed):
                self._row(label if number == 0 else "", Text(inert(line), style="yellow"))

    def _checks(self, checks: Sequence[Sequence[Check]]) -> None:
        agreed = len({tuple(check.claim for check in each) for each in checks}) == 1
        if agreed:
            for same in zip(*checks, strict=True):
                self._check(FACES, same)
            return
        for face, each in zip(FACES, checks, strict=True):
            for check in each:
                self._check((face,), (check,))

    def _check(self, faces: Sequence[str], same: Sequence[Check]) -> None:
        """Show one claim: once where it holds for everyone, else for each one that it fails for."""
        held = all(check.holds for check in same)
        if held:
            self._row("", self._held(same, faces))
        for face, check in zip(faces, same, strict=True):
            if not check.holds:
                self._row("", self._failed(check, face))

    def _held(self, same: Sequence[Check], faces: Sequence[str]) -> Text:
        claim = same[0].claim
        found = " / ".join(dict.fromkeys(inert(check.found) for check in same))
        is_telling = found not in claim and found not in _TRUISMS and len(found) <= _TELLING
        told = f": {found}" if is_telling else ""
        whose = "" if len(faces) == len(FACES) else f" ({', '.join(faces)})"
        return Text.assemble((f"{self._yes} ", "green"), claim, (told, "dim"), whose)

    def _failed(self, check: Check, face: str) -> Text:
        words = f"expected {inert(check.expected)}; found {inert(check.found)}"
        return Text.assemble((f"{self._no} {check.claim} ({face}): {words}", "bold red"))

    def _count(self, checks: Sequence[Check]) -> Text:
        held = sum(check.holds for check in checks)
        everything = held == len(checks)
        mark = self._yes if everything else self._no
        return Text(f"{held}/{len(checks)} {mark}", style="green" if everything else "bold red")

    def _row(self, label: str, told: Text) -> None:
        self._put(told, indent=_INDENT + _LABEL, label=label)

    def _put(self, told: Text, indent: int = _INDENT, label: str = "") -> None:
        # Wrapped here, since a layout of rich's fills every line with spaces, which a pipe would carry on.
        margin = Text(label.ljust(indent - _INDENT), style="dim")
        for line in told.wrap(self._paper, max(_NARROWEST, self._paper.width - indent), overflow="fold"):
            line.rstrip()
            self._paper.print(Text.assemble(" " * _INDENT, margin, line) if line else "", soft_wrap=True)
            margin = Text(" " * (indent - _INDENT))
