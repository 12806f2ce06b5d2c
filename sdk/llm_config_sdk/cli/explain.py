"""`explain`: what an error means, whether it is retried, and what to do."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from llm_config_sdk.cli import options
from llm_config_sdk.cli.exits import Exit, exit_for
from llm_config_sdk.cli.output import console, inert, table, write_json, write_note
from llm_config_sdk.contract import CODES, VARIANTS, ErrorCode, VariantFacts
from llm_config_sdk.errors import CODE_CLASSES


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say about one code.

    Attributes:
        code: The platform's code.
        error_class: The exception's class.
        status: The HTTP status.
        category: Who has to act.
        retriable: Whether the failure may pass.
        critical: Whether somebody should be woken.
        meaning: What the guide says of it.
        hint: What to do next.
        exit_code: What a command ends with.
        variants: The variants of the modules' error enums that have this code.
        permanent_variants: Those among them that will not pass, although the code says it may.
    """

    code: str
    error_class: str
    status: int
    category: str
    retriable: bool
    critical: bool
    meaning: str
    hint: str
    exit_code: int
    variants: tuple[str, ...]
    permanent_variants: tuple[str, ...]


def explain_code(code: ErrorCode) -> Explanation:
    """Gather what the platform's tables and the SDK say of a code."""
    facts = CODES[code]
    cls = CODE_CLASSES[code]
    # The server's side of the hint: what an error of this code would tell its caller.
    example = cls(facts.description, code=code, status=facts.status)
    variants = [variant for variant in VARIANTS.values() if variant.code is code]
    return Explanation(
        code=code.value,
        error_class=cls.__name__,
        status=facts.status,
        category=facts.category.value,
        retriable=facts.retriable,
        critical=facts.critical,
        meaning=facts.description,
        hint=example.hint,
        exit_code=int(exit_for(example)),
        variants=tuple(map(_qualified, variants)),
        permanent_variants=tuple(
            _qualified(variant) for variant in variants if facts.retriable and not variant.retriable
        ),
    )


def _qualified(variant: VariantFacts) -> str:
    return f"{variant.module.value}.{variant.variant}"


def find(word: str) -> list[Explanation]:
    """Find codes by their name, their class's, one of their variants', or their HTTP status."""
    wanted = word.casefold()
    return [found for found in map(explain_code, ErrorCode) if wanted in set(_names(found))]


def _names(found: Explanation) -> Iterator[str]:
    yield found.code.casefold()
    yield found.error_class.casefold()
    yield str(found.status)
    for variant in found.variants:
        yield variant.casefold()
        yield variant.partition(".")[2].casefold()


def _codes() -> list[str]:
    return [code.value for code in ErrorCode]


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="A code (NOT_FOUND), class (NotFoundError), variant (config.IoError) or HTTP status (503); "
            "left out, all codes.",
            show_default=False,
            autocompletion=_codes,
        ),
    ] = None,
    *,
    as_json: options.AsJson = False,
) -> None:
    """Say what an error means, whether it is retried, and what to do."""
    found = [explain_code(each) for each in ErrorCode] if code is None else find(code)
    if not found:
        write_note(f"{inert(str(code))} is no error of the platform; `explain` alone lists them.")
        raise typer.Exit(Exit.NOT_FOUND)
    if as_json:
        documents = [asdict(each) for each in found]
        write_json(documents if code is None or len(documents) > 1 else documents[0])
    elif code is None:
        rows = [(each.code, str(each.status), each.category, _yes(each.retriable)) for each in found]
        table(("code", "status", "category", "retriable"), rows).print()
    else:
        for each in found:
            _show(each)


def _show(found: Explanation) -> None:
    paper = console(sys.stdout)
    rows: dict[str, Any] = {
        "class": found.error_class,
        "status": f"HTTP {found.status}",
        "category": found.category,
        "retried": f"{_yes(found.retriable)}{', once it is safe to repeat' if found.retriable else ''}",
        "critical": _yes(found.critical),
        "exit code": found.exit_code,
        "variants": ", ".join(found.variants) or "none",
        "never passes": ", ".join(found.permanent_variants),
        "what to do": found.hint,
    }
    paper.print(Text.assemble((found.code, "bold"), f": {found.meaning}"))
    for name, told in rows.items():
        if told == "":
            continue
        paper.print(Text(f"  {name:<12} {told}"), soft_wrap=True)


def _yes(fact: bool) -> str:  # noqa: FBT001  # it is the fact to be worded
    return "yes" if fact else "no"
