"""What mkdocs makes at build time: the options of the command, the members of the API, a page of each notebook.

A place is a line ``<!-- built: command-line -->`` or ``<!-- built: api NAME NAME... -->``. What is in committed files
already, such as tables of results, is tools/docs_tables.py's.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

PLACE = re.compile(r"^<!-- built: (command-line|api)(.*) -->$", re.MULTILINE)

# Pages name a study's pictures where they lie, so that they show in the repository, too.
PICTURES = "../../benchmarks/results/"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Take the studies' pictures into the site, and make pages of notebooks."""
    for picture in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        for made in pages_of(file, config):
            files.append(made)
    return files


def pages_of(notebook: File, config: Any) -> list[File]:
    """Make a page of a notebook as it was run, and its pictures."""
    page = Path(notebook.src_uri).with_suffix("")
    names = {"unique_key": page.name, "output_files_dir": f"{page.name}_files"}
    text, found = MarkdownExporter().from_filename(notebook.abs_src_path, resources=names)
    pictures = {f"{page.parent.as_posix()}/{name}": content for name, content in found["outputs"].items()}
    content = {f"{page.as_posix()}.md": text, **pictures}
    return [File.generated(config, path, content=of_file) for path, of_file in content.items()]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the places of a page, and lead its pictures into the site."""
    markdown = markdown.replace(PICTURES, "../images/")
    written: set[str] = set()

    def fill(place: re.Match[str]) -> str:
        return command_line() if place[1] == "command-line" else api(place[2].split(), written)

    return PLACE.sub(fill, markdown)


def api(names: list[str], written: set[str]) -> str:
    """Write a directive for every name, or for every public name of a package, at the place of its definition.

    Public names may come from elsewhere, and only when they are asked for, which a reader of source can't follow.

    Args:
        names: Importable names.
        written: Definitions that the page has already; what is written here is added.
    """
    entries = []
    for name in names:
        value = pkgutil.resolve_name(name)
        if hasattr(value, "__path__"):
            package = importlib.import_module(name)
            members = {f"{name}.{member}": getattr(package, member) for member in sorted(package.__all__)}
        else:
            members = {name: value}
        for path, member in members.items():
            definition = f"{member.__module__}.{member.__qualname__}"
            if definition in written:
                entries.append(f"### {path}\n\nSee above.\n")
            else:
                entries.append(f"::: {definition}\n    options:\n      heading: {path}\n      toc_label: {path}\n")
            written.add(definition)
    return "\n".join(entries)


def command_line() -> str:
    """Write a section for every command: what it does, its usage, its options."""
    from sharcs_cli.app import app

    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="sharcs")
    sections = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option"]
        usage = " ".join(["sharcs", name, *(param.metavar or param.name for param in arguments), "[OPTIONS]"])
        rows = [_row(param) for param in sorted(options, key=lambda param: not param.required)]
        head = "| option | what it does | default |\n| --- | --- | --- |\n"
        sections.append(f"## sharcs {name}\n\n{command.help}\n\n```text\n{usage}\n```\n\n{head}" + "\n".join(rows))
    return "\n\n".join(sections)


def _row(param: Any) -> str:
    default = "" if param.is_flag else param.show_default
    if default is True:
        default = f"`{param.default}`"
    return f"| `{', '.join(param.opts)}` | {param.help or ''} | {'required' if param.required else default} |"
