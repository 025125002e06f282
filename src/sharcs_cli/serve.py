"""The command ``sharcs serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    body_seconds: Annotated[float, typer.Option("--body-seconds", help="In which a body has to be there.")] = 10.0,
) -> None:
    """Answer texts over HTTP; under load, narrower rungs answer before a request is refused."""
    if brown_out not in ("ladder", "off"):
        raise InputError(f"--brown-out {brown_out}: has to be ladder or off")
    if (tls_cert is None) != (tls_key is None):
        raise InputError("--tls-cert, --tls-key: belong together; give both")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory; give a model or an export")
    if deadline_ms <= 0 or body_seconds <= 0 or min(max_body, max_inputs) < 1 or drain_seconds < 0:
        raise InputError("--deadline-ms, --body-seconds, --max-body, --max-inputs: have to be above 0")
    try:
        from sharcs_serve.run import read_keys, run, usable_cpus
        from sharcs_serve.service import Settings
    except ImportError as error:
        raise MissingPackageError(error, "serve") from error

    settings = Settings(
        folder,
        workers=_workers(workers, usable_cpus()),
        deadline_ms=deadline_ms,
        brown_out=brown_out == "ladder",
        pairs=pairs,
        keys=read_keys(api_key_file),
        max_body=max_body,
        max_inputs=max_inputs,
        body_seconds=body_seconds,
    )
    run(settings, host, port, drain_seconds, (tls_cert, tls_key))


def _workers(text: str, usable: int) -> int:
    if text == "auto":
        return usable
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--workers {text}: has to be auto, or a number of at least 1")
    return int(text)
