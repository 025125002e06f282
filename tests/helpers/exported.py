"""Exports within a second: of the committed model, whose graphs are committed too, so that nothing is traced."""

import shutil
from unittest import mock

from helpers.cli import succeeds
from records.make import HERE
from sharcs.export import graphs

MODEL = HERE / "plus-2"


def export_record(model, output, *options):
    """Run ``sharcs export`` on the committed model, or a copy with another policy; its graphs are still checked."""

    def recorded(_part, _example, file):
        shutil.copyfile(HERE / "export-1" / file.name, file)

    with mock.patch.object(graphs, "write_graph", recorded):
        return succeeds("export", model, "--output", output, *options)
