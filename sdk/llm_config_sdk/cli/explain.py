"""`explain`: what an error means, whether it is retried, and what to do."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from llm_config_sdk import errors
from llm_config_sdk.cli import options
from llm_config_sdk.cli.exits import Exit, exit_for
from llm_config_sdk.cli.output import console, inert, table, write_json, write_note
from llm_config_sdk.contract import CODES, VARIANTS, ErrorCode, VariantFacts
from llm_config_sdk.errors import CODE_CLASSES, AllEndpointsFailedError, ConnectFailedError, LLMConfigError
from llm_config_sdk.hints import CLASS_HINTS


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to say about one code, or about a failure that has none.

    Attributes:
        code: The platform's code; `None` for what is born on this side of the wire.
        error_class: The exception's class.
        status: The HTTP status; `None` where there is none.
        category: Who has to act.
        retriable: Whether the failure may pass.
        critical: Whether somebody should be woken.
        meaning: What the guide says of it, or the SDK of its own.
        hint: What to do next.
        exit_code: What a command ends with.
        variants: The variants of the modules' error enums that have this code.
        permanent_variants: Those among them that will not pass, although the code says it may.
    """

    code: str | None
    error_class: str
    status: int | None
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


def explain_class(cls: type[LLMConfigError]) -> Explanation:
    """Gather what the SDK says of a failure of its own: no answer, or none that can be read."""
    if issubclass(cls, AllEndpointsFailedError):  # it is as its errors are
        example: LLMConfigError = cls("", errors=[ConnectFailedError("")])
    else:
        example = cls("")
    return Explanation(
        code=None,
        error_class=cls.__name__,
        status=None,
        category=example.category.value,
        retriable=example.is_retriable,
        critical=example.is_critical,
        meaning=(cls.__doc__ or "").partition("\n\n")[0].replace("\n    ", " ").removesuffix("."),
        hint=example.hint,
        exit_code=int(exit_for(example)),
        variants=(),
        permanent_variants=(),
    )


def _qualified(variant: VariantFacts) -> str:
    return f"{variant.module.value}.{variant.variant}"


def find(word: str) -> list[Explanation]:
    """Find errors by their code, their class, one of their variants, or their HTTP status."""
    wanted = word.casefold()
    everything = [*map(explain_code, ErrorCode), *map(explain_class, _OF_THIS_SIDE)]
    return [found for found in everything if wanted in set(_names(found))]


#: What has no code: the logs and metrics name it by its class.
_OF_THIS_SIDE: Final[Sequence[type[LLMConfigError]]] = [getattr(errors, name) for name in CLASS_HINTS]


def _names(found: Explanation) -> Iterator[str]:
    if found.code is not None:
        yield found.code.casefold()
        yield str(found.status)
    yield found.error_class.casefold()
    for variant in found.variants:
        yield variant.casefold()
        yield variant.partition(".")[2].casefold()


def _codes() -> list[str]:
    return [*(code.value for code in ErrorCode), *CLASS_HINTS]


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
        close = get_close_matches(str(code).upper(), [name.upper() for name in _codes()], n=1)
        meant = next((name for name in _codes() if [name.upper()] == close), None)
        more = f"did you mean {meant}?" if meant else "`explain` alone lists the codes."
        write_note(f"{inert(str(code))} is no error that is known here; {more}")
        raise typer.Exit(Exit.NOT_FOUND)
    if as_json:
        documents = [asdict(each) for each in found]
        write_json(documents if code is None or len(documents) > 1 else documents[0])
    elif code is None:
        rows = [(str(each.code), str(each.status), each.category, _yes(each.retriable)) for each in found]
        table(("code", "status", "category", "retriable"), rows).print()
        write_note(f"Without a code, as there was no answer to read: {', '.join(CLASS_HINTS)}.")
    else:
        for each in found:
            _show(each)


def _show(found: Explanation) -> None:
    paper = console(sys.stdout)
    rows: dict[str, Any] = {
        "class": found.error_class,
        "status": "none" if found.status is None else f"HTTP {found.status}",
        "category": found.category,
        "retried": f"{_yes(found.retriable)}{', once it is safe to repeat' if found.retriable else ''}",
        "critical": _yes(found.critical),
        "exit code": found.exit_code,
        "variants": ", ".join(found.variants) or "none",
        "never passes": ", ".join(found.permanent_variants),
        "what to do": found.hint,
    }
    paper.print(
        Text.assemble((found.code or found.error_class, "bold"), f": {found.meaning}"), soft_wrap=True
    )
    for name, told in rows.items():
        if told == "":
            continue
        paper.print(Text(f"  {name:<12} {told}"), soft_wrap=True)


def _yes(fact: bool) -> str:  # noqa: FBT001  # it is the fact to be worded
    return "yes" if fact else "no"
