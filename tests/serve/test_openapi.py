"""Our description of the routes: what a service takes and answers keeps to it, as its schemas' own validator says."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.packages import installed, run_with
from helpers.service import RECORD, running

DETAILS = {"details": True, "top_k": 2}
ASKED = [
    ("/predict", {"inputs": "a film"}),
    ("/predict", {"inputs": ["a film", "it is dull"], **DETAILS}),
    ("/predict", {"inputs": [["a film"]], "parameters": {"top_k": 1}}),
    ("/predict", {"inputs": "a", "sub_network": "full", "deadline_ms": 1e4, "brown_out": False}),
    ("/", {"inputs": "a film", "parameters": {}}),
    ("/classify", {"model": "any", "input": ["a film", "it is dull"], **DETAILS}),
    ("/classify", {"input": "a film"}),
    ("/predict", {"inputs": []}),
    ("/predict", {"inputs": ["a"] * 40}),
    ("/predict", {"inputs": "a", "budget": 0.5}),
    ("/classify", {"input": 3}),
    ("/", {"inputs": "a", "top_k": 0}),
    *((path, None) for path in ("/health", "/ready", "/info", "/docs", "/metrics")),
]
VALIDATE = """
import json
from jsonschema import Draft202012Validator
description, found = json.load(open(sys.argv[1]))
for path, asked, status, answer in found:
    route = description["paths"][path]["get" if asked is None else "post"]
    response = route["responses"][str(status)]["content"]
    schemas = [(answer, next(iter(response.values()))["schema"])]
    if asked is not None and status == 200:
        schemas.append((asked, route["requestBody"]["content"]["application/json"]["schema"]))
    for value, schema in schemas:
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema | {"components": description["components"]}).validate(value)
entry = description["components"]["schemas"]["Entry"]
sys.exit(Draft202012Validator(entry).is_valid({"label": "a", "score": 2}))
"""


@pytest.mark.extended
def test_what_is_asked_and_answered_keeps_to_the_description(tmp_path, tmp_path_factory):
    with running(RECORD) as service:
        found = [(path, asked, *service.ask(path, asked)[:2]) for path, asked in ASKED]
        description = service.ask("/docs")[1]
    assert {status for _, _, status, _ in found} == {200, 400, 413, 422}
    (tmp_path / "found.json").write_text(json.dumps([description, found]))
    run_with(installed(tmp_path_factory, "jsonschema"), VALIDATE, tmp_path / "found.json")
