"""Data and outputs in a bucket, through a server that speaks S3's protocol: ``make test-cluster`` runs this."""

import os
import re
import subprocess
import sys

import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from records.make import HERE, ROWS

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

MODEL = HERE / "plus-2"
SERVER = "from moto.server import main; main(['--port', '0', '--host', '127.0.0.1'])"


@pytest.fixture(scope="module")
def server():
    """Start a server; its address."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if match := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield match[0]
                    break
        finally:
            process.kill()


@pytest.fixture
def bucket(server, monkeypatch):
    """Make a bucket that the environment leads to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("texts")
    yield system
    system.rm("texts", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def local(tmp_path):
    """Write two files of two formats."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_csv(folder / "a.csv", read_csv(ROWS)[:21])
    write_csv(folder / "rows.csv", read_csv(ROWS)[21:40])
    succeeds("predict", MODEL, "--data", folder / "rows.csv", "--output", folder / "b.parquet")
    (folder / "rows.csv").unlink()
    return folder


def fill(data, output, workers=1):
    return ("predict", MODEL, "--data", data, "--output", output, "--workers", workers)


def answers(found):
    """Take what a user finds."""
    return {name: content for name, content in found.items() if not name.startswith("_") and content is not None}


def stored(system, folder):
    return {path.removeprefix(f"{folder}/"): system.cat_file(path) for path in system.find(folder)}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_is_read_and_written_as_a_directory_is(bucket, local, tmp_path, workers):
    succeeds(*fill(local, tmp_path / "out"))
    bucket.put(f"{local}/", "texts/in/", recursive=True)
    for data in ("s3://texts/in", "s3://texts/in/*"):
        assert "40 rows of 2 files are in s3://texts/out" in succeeds(*fill(data, "s3://texts/out", workers)).err
        assert answers(stored(bucket, "texts/out")) == answers(files_in(tmp_path / "out"))
        assert "; all was done before" in succeeds(*fill(data, "s3://texts/out", workers)).err
        bucket.rm("texts/out", recursive=True)


def test_a_file_that_was_put_again_is_another_one(bucket, local):
    bucket.put(f"{local}/", "texts/in/", recursive=True)
    succeeds(*fill("s3://texts/in", "s3://texts/out"))
    bucket.pipe_file("texts/in/a.csv", (local / "a.csv").read_bytes().replace(b"it is", b"it Is"))
    message = error_message(sharcs(*fill("s3://texts/in", "s3://texts/out")))
    assert "was begun with another a.csv, which has been written since" in message


def test_what_is_not_there_or_not_allowed_is_one_line(bucket, local, monkeypatch):
    assert error_message(sharcs(*fill("s3://texts/absent.csv", "s3://texts/out"))) == (
        "s3://texts/absent.csv: there is no such file; correct the name"
    )
    assert "s3://nobody/out/_sharcs/manifest.json: can't be written" in error_message(
        sharcs(*fill(local, "s3://nobody/out"))
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    message = error_message(sharcs(*fill("s3://texts/a.csv", "s3://texts/out")))
    assert message.startswith("s3://texts/a.csv: cannot be read (")
    assert os.environ["AWS_ENDPOINT_URL"] in message
