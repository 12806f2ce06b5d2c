"""`doctor`: what stands between this machine and each server, and the fix."""

from dataclasses import asdict
from typing import Any, Final

import typer
from rich.text import Text

from llm_config_sdk.cli import options
from llm_config_sdk.cli.commands import read_headers, warn_of_misspelt_variables
from llm_config_sdk.cli.diagnosis import Doctor, Examination, Finding, verdict
from llm_config_sdk.cli.exits import Exit, exit_for
from llm_config_sdk.cli.output import console, inert, report, write_json
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError
from llm_config_sdk.operations import client_headers
from llm_config_sdk.settings import read_settings
from llm_config_sdk.transport import Endpoint, StackTransport, ssl_context

_STYLES: Final = {"ok": "green", "note": "yellow", "problem": "bold red"}


def doctor(
    *,
    backup: options.Backup = None,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask every server a few harmless questions, and name what is wrong and the fix.

    Exit codes: 0 all is well, 7 a server is not reachable, 5 the token is refused, 6 anything else.
    """
    if not as_json:
        warn_of_misspelt_variables()
    try:
        examinations = _examine(base_url, backup=backup, token=token, env=env, timeout=timeout, header=header)
    except LLMConfigError as error:
        code = exit_for(error)
        report(error, code, as_json=as_json)
        raise typer.Exit(code) from None
    code = verdict(examinations)
    if as_json:
        write_json(_document(examinations, code))
    else:
        for examination in examinations:
            _show(examination)
    raise typer.Exit(code)


def _examine(
    base_url: str | None,
    *,
    backup: list[str] | None,
    token: str | None,
    env: str | None,
    timeout: float | None,
    header: list[str] | None,
) -> list[Examination]:
    settings = read_settings(
        {
            "base_url": base_url,
            "token": token,
            "environment": env,
            "timeout": timeout,
            "backups": tuple(backup) if backup else None,
        }
    )
    if settings.base_url is None:
        raise InvalidRequestError("no server to talk to", hint="Pass --base-url, or set LLM_CONFIG_BASE_URL.")
    endpoints = [Endpoint.parse(url) for url in (settings.base_url, *settings.backups)]
    context = ssl_context(settings.ca_bundle or True, settings.certificate, settings.minimum_tls)
    transport = StackTransport(verify=context)
    try:
        examiner = Doctor(
            transport,
            token=settings.token.get_secret_value() if settings.token is not None else None,
            headers=client_headers(read_headers(header)),
            environment=settings.environment.value,
            timeout=settings.timeout,
        )
        return [
            examiner.examine(endpoint, "primary" if number == 0 else "backup")
            for number, endpoint in enumerate(endpoints)
        ]
    finally:
        transport.close()


def _document(examinations: list[Examination], code: Exit) -> dict[str, Any]:
    return {
        "ok": code is Exit.OK,
        "exit_code": int(code),
        "endpoints": [
            {
                "url": examination.url,
                "role": examination.role,
                "profile": examination.profile,
                "findings": [_finding_document(finding) for finding in examination.findings],
            }
            for examination in examinations
        ],
    }


def _finding_document(finding: Finding) -> dict[str, Any]:
    document = asdict(finding)
    del document["code"]  # the command's own affair
    return document


def _show(examination: Examination) -> None:
    paper = console()
    paper.print(Text.assemble((examination.role, "bold"), f" {inert(examination.url)}"), soft_wrap=True)
    for finding in examination.findings:
        line = Text.assemble(
            (f"  {finding.standing:<8}", _STYLES[finding.standing]),
            f"{finding.check:<12}{inert(finding.says)}",
        )
        paper.print(line, soft_wrap=True)
        if finding.fix and finding.standing != "ok":
            paper.print(Text(f"{'':<10}{'fix:':<12}{inert(finding.fix)}"), soft_wrap=True)
