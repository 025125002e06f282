"""The command ``sharcs load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sharcs_cli.options import (
    DataOption,
    DelimiterOption,
    EncodingOption,
    NoQuotesOption,
    TextOption,
    claim_json,
    dialect_of,
    out,
    percent,
    say,
)
from sharcs_runtime.errors import InputError


def load(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a service, like http://127.0.0.1:8080.")],
    data: DataOption,
    rates: Annotated[str, typer.Option("--rates", help="Requests a second, like 50,100,200.")],
    p99_ms: Annotated[float, typer.Option("--p99-ms", help="In which 99% of the answers should come.")] = 100.0,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each rate lasts.")] = 20.0,
    bursty: Annotated[
        bool, typer.Option("--bursty", help="All in the first half of each second; else a Poisson process.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Draws when requests are due.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers here, and a picture beside them.")
    ] = None,
    allow_host: Annotated[
        str | None, typer.Option("--allow-host", help="Name of the other machine that may be put under load.")
    ] = None,
    text_column: TextOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Put a service under load, and show latency and goodput at each rate."""
    from sharcs.data.texts import Columns, load_texts
    from sharcs.files import write_json
    from sharcs_serve.load import advice, check_address, draw_load, due_times, measure, record

    address = check_address(url, allow_host)
    wanted = _rates(rates)
    if not all(0 < value < float("inf") for value in (p99_ms, seconds)):
        raise InputError("--p99-ms, --seconds: have to be finite numbers above 0")
    if seed < 0:
        raise InputError(f"--seed {seed}: has to be from 0 on")
    picture = claim_json(context, json_path)
    columns = Columns(text=text_column) if text_column else Columns()
    texts = list(load_texts(data, columns, labelled=False, dialect=dialect_of(encoding, delimiter, no_quotes)).texts)
    loads = []
    table = Table("rate", "answered, %", "refused, %", "lost, %", "later rungs, %", "p50, ms", "p99, ms", "goodput")
    for number, rate in enumerate(wanted):
        found = measure(address, texts, due_times(rate, seconds, seed + number, bursty), rate, p99_ms)
        loads.append(found)
        shares = (found.answered, found.refused, found.lost, found.degraded)
        times = ["" if value is None else f"{value:.1f}" for value in (found.p50_ms, found.p99_ms)]
        table.add_row(f"{rate:g}", *map(percent, shares), *times, f"{found.goodput:.1f}")
        say(f"{rate:g} a second: done")
    if json_path is not None and picture is not None:
        write_json(record(loads, p99_ms), json_path)
        draw_load(loads, p99_ms, picture, f"{url} under load")
    out.print(table)
    say(advice(loads, p99_ms))


def _rates(text: str) -> list[float]:
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 1e6 for rate in rates):
        raise InputError(f"--rates {text}: have to be numbers above 0 with commas between them, like 50,100")
    return rates
