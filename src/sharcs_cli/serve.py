"""The command ``sharcs serve``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from sharcs_cli.options import number_or_auto
from sharcs_runtime.errors import InputError, MissingPackageError


def serve(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_OR_EXPORT", help="Directory of a model or an export.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen at; 0 for any that is free.")] = 8080,
    workers: Annotated[
        str, typer.Option("--workers", help="Engine processes; auto is one for each processor that may be used.")
    ] = "auto",
    deadline_ms: Annotated[
        float, typer.Option("--deadline-ms", help="Milliseconds that a request may take, unless it says otherwise.")
    ] = 1000.0,
    brown_out: Annotated[
        str, typer.Option("--brown-out", help="ladder: later rungs answer under load; off: never.")
    ] = "ladder",
    pairs: Annotated[bool, typer.Option("--pairs", help="Take pairs of texts, for a model of pairs.")] = False,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="A file with one API key a line.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate to serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key.")] = None,
    drain_seconds: Annotated[
        float, typer.Option("--drain-seconds", help="How long to go on after SIGTERM, while /ready says no.")
    ] = 5.0,
    max_body: Annotated[int, typer.Option("--max-body", help="Bytes of a body, at most.")] = 2_000_000,
    max_inputs: Annotated[int, typer.Option("--max-inputs", help="Texts of a request, at most.")] = 32,
    body_seconds: Annotated[
        float, typer.Option("--body-seconds", help="In which a body has to be there, or the head of a request.")
    ] = 10.0,
    max_connections: Annotated[
        str,
        typer.Option("--max-connections", help="Open at once; auto is 10000, or what open files are allowed."),
    ] = "auto",
    check_share: Annotated[
        float, typer.Option("--check-share", help="Share of the texts that the full network is asked about, too.")
    ] = 0.0,
    monitor_file: Annotated[
        Path | None, typer.Option("--monitor-file", help="Keeps over restarts what --check-share has counted.")
    ] = None,
    shadow: Annotated[
        Path | None,
        typer.Option(
            "--shadow",
            metavar="FILE_OR_FOLDER",
            help="Another calibration of the same networks: how often would it answer otherwise?",
        ),
    ] = None,
) -> None:
    """Answer texts over HTTP; under load, narrower rungs answer before a request is refused.

    SIGHUP loads MODEL_OR_EXPORT again, without a pause; SIGTERM ends it after --drain-seconds.
    """
    if brown_out not in ("ladder", "off"):
        raise InputError(f"--brown-out {brown_out}: has to be ladder or off")
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert, --tls-key: belong together; give both")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory; give a model or an export")
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: has to be from 1 to {2**16 - 1}, or 0 for any that is free")
    if not all(0 < value < math.inf for value in (deadline_ms, body_seconds, max_body, max_inputs)):
        raise InputError("--deadline-ms, --body-seconds, --max-body, --max-inputs: have to be finite and above 0")
    if not 0 <= drain_seconds < math.inf:
        raise InputError(f"--drain-seconds {drain_seconds:g}: has to be a finite number from 0 on")
    if not 0 <= check_share <= 1:
        raise InputError(f"--check-share {check_share:g}: has to be from 0 to 1, like 0.05")
    if check_share == 0 and (monitor_file or shadow):
        raise InputError("--monitor-file, --shadow: need a share of the texts to check; add --check-share 0.05")
    try:
        from sharcs_runtime.stage.processors import usable_cpus
        from sharcs_serve.connections import connection_limit
        from sharcs_serve.run import read_keys, run
        from sharcs_serve.settings import Settings
    except ImportError as error:
        raise MissingPackageError(error, "serve") from error

    processes = number_or_auto("--workers", workers) or usable_cpus()
    settings = Settings(
        folder,
        workers=processes,
        deadline_ms=deadline_ms,
        brown_out=brown_out == "ladder",
        pairs=pairs,
        keys=read_keys(api_key_file),
        max_body=max_body,
        max_inputs=max_inputs,
        body_seconds=body_seconds,
        max_connections=connection_limit(number_or_auto("--max-connections", max_connections), processes),
        check_share=check_share,
        monitor_file=monitor_file,
        shadow=shadow,
    )
    run(settings, host, port, drain_seconds, (tls_cert, tls_key))
