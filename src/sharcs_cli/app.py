"""The command ``sharcs``: its subcommands, and how it ends on what the user can put right.

Help has to come at once. So no module of this package but ``progress`` imports torch, transformers or anything of
:mod:`sharcs` before a command runs.
"""

from __future__ import annotations

import io
import re
import sys
import warnings
from collections import Counter
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from sharcs_cli.benchmark import benchmark
from sharcs_cli.calibrate import calibrate
from sharcs_cli.evaluate import evaluate
from sharcs_cli.export import export
from sharcs_cli.load import load
from sharcs_cli.predict import predict
from sharcs_cli.report import report
from sharcs_cli.serve import serve
from sharcs_cli.train import train
from sharcs_runtime.errors import InputError, MissingPackageError, RefusedElsewhereError, first_line

app = typer.Typer(
    name="sharcs",
    help="Fine-tune an encoder once; each input then uses only as much of its width as it needs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


NOTHING = "none"  # shown as the default of an option without one


class Command(TyperCommand):
    """A subcommand whose help says of each option what holds without it, and that refuses a repeated option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            says_nothing = parameter.default is None and not parameter.required
            if isinstance(parameter, TyperOption) and says_nothing and parameter.show_default is True:
                parameter.show_default = NOTHING

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; of an option that is given twice, the parser alone would keep the last value."""
        _, _, parameters = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(parameters).items():
            takes_one = isinstance(parameter, TyperOption) and not (parameter.multiple or parameter.is_flag)
            if takes_one and count > 1:
                raise InputError(f"{parameter.opts[0]}: is given {count} times; give it once")
        return super().parse_args(ctx, args)


class TorchCommand(Command):
    """A subcommand that runs without the messages of transformers."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; bars and reports of transformers would hide the one line that matters."""
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        return super().invoke(ctx)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sharcs {metadata.version('sharcs')}")
        raise typer.Exit


@app.callback()
def sharcs(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options of the command itself."""


for subcommand in (train, evaluate, predict, calibrate, export, benchmark, report, load):
    app.command(cls=TorchCommand)(subcommand)
app.command(cls=Command)(serve)  # of an export, without torch


def main() -> None:
    """Run the command; what the user can put right ends with one line and exit code 2."""
    plain, warnings.formatwarning = warnings.formatwarning, _one_line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal has no letters for costs no results
    try:
        app()
        sys.stdout.flush()
    except RefusedElsewhereError:
        sys.exit(2)
    except InputError as error:
        _stop(_with_options(str(error)))
    except OSError as error:
        _stop(f"{first_line(error)}; make room, or name another place")
    except ImportError as error:
        if (error.name or "").startswith("sharcs"):
            raise
        _stop(str(MissingPackageError(error, "train")))
    finally:
        warnings.formatwarning = plain


def _stop(message: str) -> None:
    sys.stderr.write(f"sharcs: error: {' '.join(message.split())}\n")
    sys.exit(2)


def _with_options(message: str) -> str:
    """Write the arguments that a message of the library names, each in backticks, as the options of the command."""
    commands = vars(typer.main.get_command(app))["commands"].values()
    options: dict[str | None, str] = {}
    for parameter in (parameter for command in commands for parameter in command.params):
        # An option of two names is called by the one that the message has.
        options |= {name.lstrip("-").replace("-", "_"): name for name in parameter.opts}
        options[parameter.name] = parameter.opts[0]
    return re.sub(r"`(\w+)`", lambda quoted: options.get(quoted[1], quoted[0]), message)


def _one_line(message: Warning | str, *_place: Any, **_more: Any) -> str:
    """Write a warning as one line; Python's own form adds a line of our source."""
    return f"sharcs: note: {_with_options(' '.join(str(message).split()))}\n"


if __name__ == "__main__":
    main()
