"""What clients send and get: text-embeddings-inference, Hugging Face Inference and vLLM. Pure functions."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

from sharcs_runtime.errors import InputError

Json = Any
OWN_KEYS = ("sub_network", "budget", "deadline_ms", "top_k", "details", "brown_out")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, whatever its form.

    Attributes:
        texts: Strings, or pairs of strings.
        form: ``flat`` for text-embeddings-inference's one text, ``nested`` for a list of answers, ``vllm``.
        sub_network: The one that has to answer, by its name, or None.
        budget: Mean cost of the policy to answer by, or None.
        deadline_ms: Milliseconds that the answer may take, or None for the service's own.
        top_k: How many classes, or None for all.
        details: Whether sub-network, cost and rung stand in the body.
        brown_out: Whether another rung than the first may answer.
    """

    texts: list[Any]
    form: str
    sub_network: str | None = None
    budget: float | None = None
    deadline_ms: float | None = None
    top_k: int | None = None
    details: bool = False
    brown_out: bool = True


def read_json(body: bytes) -> Json:
    """Decode a request's body.

    Raises:
        InputError: If a string in it has half of a surrogate pair, which JSON allows and no tokenizer can read.
        ValueError: If it is no JSON.
    """
    content = json.loads(body)
    if b"\\u" in body or not body.isascii():
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError("the body has half of a surrogate pair, which is no character; leave it out") from error
    return content


def read_predict(body: Json, pairs: bool) -> Asked:
    """Read a request of text-embeddings-inference, or of Hugging Face's client, which always sends ``parameters``.

    Args:
        body: The decoded JSON.
        pairs: Whether the network knows pairs of texts: two strings in a list are then one input.

    Raises:
        InputError: If it is no such request.
    """
    body = _object(body)
    parameters = body.get("parameters")
    if parameters is not None:
        body = body | {name: value for name, value in _object(parameters).items() if value is not None}
    if body.get("function_to_apply", "softmax") != "softmax" or body.get("raw_scores"):
        raise InputError("function_to_apply, raw_scores: probabilities are all there is; leave them out")
    if "inputs" not in body:
        raise InputError("inputs: is missing; give a text, or a list of texts")
    texts, single = _inputs(body["inputs"], pairs)
    return Asked(texts, "flat" if single and parameters is None else "nested", **_own(body))


def read_classify(body: Json) -> Asked:
    """Read a request of vLLM's ``/classify``.

    Raises:
        InputError: If it is no such request.
    """
    body = _object(body)
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError("input: has to be a text, or a list of texts")
    return Asked(texts, "vllm", **_own(body))


def write(asked: Asked, answers: list[Json]) -> Json:
    """Write answers in the form of the request.

    Args:
        asked: The request.
        answers: For each text ``probabilities``, ``answered_by``, ``start``, ``tokens``, ``cost``, ``rung``, and
            ``info`` of the network.
    """
    if asked.form == "vllm":
        return _vllm(asked, answers)
    lists = []
    for answer in answers:
        shares, labels = answer["probabilities"], answer["info"]["labels"]
        ranked = sorted(range(len(shares)), key=lambda index: -shares[index])[: asked.top_k]
        entries = [{"label": labels[index], "score": shares[index]} for index in ranked]
        if asked.details:
            entries[0] |= details_of(answer)
        lists.append(entries)
    return lists[0] if asked.form == "flat" else lists


def details_of(answer: Json) -> Json:
    """Say who answered, and at what cost."""
    names = answer["info"]["sub_networks"]
    return {
        "sub_network": names[answer["answered_by"]],
        "start": names[answer["start"]],
        "tokens": answer["tokens"],
        "cost": answer["cost"],
        "rung": answer["rung"],
        "degraded": answer["rung"] > 0,
    }


def _vllm(asked: Asked, answers: list[Json]) -> Json:
    data = []
    for index, answer in enumerate(answers):
        shares = answer["probabilities"]
        best = max(range(len(shares)), key=shares.__getitem__)
        label = answer["info"]["labels"][best]
        entry = {"index": index, "label": label, "probs": shares, "num_classes": len(shares)}
        data.append(entry | (details_of(answer) if asked.details else {}))
    tokens = sum(answer["tokens"] for answer in answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    about = {"id": f"classify-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    return about | {"model": answers[0]["info"]["model"], "data": data, "usage": usage}


def _object(body: Json) -> dict[str, Json]:
    if not isinstance(body, dict):
        raise InputError("the body has to be a JSON object")
    return body


def _inputs(inputs: Json, pairs: bool) -> tuple[list[Any], bool]:
    """Read texts, and whether it is one that stands by itself."""
    if isinstance(inputs, str):
        return [inputs], True
    if pairs and isinstance(inputs, list) and len(inputs) == 2 and all(isinstance(part, str) for part in inputs):
        return [tuple(inputs)], True
    if not isinstance(inputs, list):
        raise InputError("inputs: has to be a text, or a list of texts")
    texts = []
    for number, entry in enumerate(inputs, 1):
        parts = [entry] if isinstance(entry, str) else entry
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            raise InputError(f"inputs: number {number} is no text, and no list of them")
        if len(parts) > (2 if pairs else 1):
            raise InputError(f"inputs: number {number} has {len(parts)} texts; the network takes {2 if pairs else 1}")
        texts.append(parts[0] if len(parts) == 1 else tuple(parts))
    return texts, False


def _own(body: dict[str, Json]) -> dict[str, Any]:
    given = {name: body[name] for name in OWN_KEYS if body.get(name) is not None}
    for name, kinds in (
        ("sub_network", str),
        ("budget", (int, float)),
        ("deadline_ms", (int, float)),
        ("top_k", int),
        ("details", bool),
        ("brown_out", bool),
    ):
        value = given.get(name)
        if value is None:
            continue
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool)
        if wrong or (name in ("budget", "deadline_ms", "top_k") and not 0 < value < 1e9):
            raise InputError(f"{name}: {value!r} is not what it can be")
    return given


class RefusedError(Exception):
    """A request that is not answered: status, type and text of the error, and headers."""

    def __init__(self, status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.kind, self.headers = status, kind, headers or {}


def overloaded(seconds: int) -> RefusedError:
    """Refuse a request that could not be answered in time, and say after how many seconds to come again."""
    text = f"too much to do; come again in {seconds} s"
    return RefusedError(429, "Overloaded", text, {"Retry-After": str(seconds)})
