"""What lies in files, read without torch: policies and promises of a model or an export, and the counts of checks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs_runtime.bundle import DESCRIPTION_FILE
from sharcs_runtime.drift import DisagreementCounter
from sharcs_runtime.errors import InputError, first_line
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharcs_serve.wire import Message

MODEL_FILE = "config.json"
WEIGHTS = ("*.safetensors", "*.onnx", "tokenizer.json")
State = dict[str, dict[str, Any]]  # a counter as plain values, by revision and rung


def weights_digest(folder: Path) -> str:
    """Hash what computes the answers: two directories of one kind with one digest differ in their policy alone."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def stored_policy(place: Path, info: Message) -> Message:
    """Read the policy that a model, an export, or the one file of it that describes it holds.

    Args:
        place: The directory or the file.
        info: Of the network that is served, which the policy has to be one of.

    Returns:
        The policy as plain values.

    Raises:
        InputError: If there is none, or it is one of other networks.
    """
    name = f"`shadow` {place}"
    file = next((place / known for known in (DESCRIPTION_FILE, MODEL_FILE) if (place / known).is_file()), place)
    try:
        policy = RoutingPolicy.from_dict(json.loads(file.read_text(encoding="utf-8"))["policy"])
        same_kind = file != place and (file.name == DESCRIPTION_FILE) == (info["kind"] == "export")
        other = same_kind and weights_digest(place) != info["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        text = str(error) if isinstance(error, InputError) else f"holds no policy ({first_line(error)})"
        raise InputError(f"{name}: {text}; give a model or an export that 'sharcs calibrate' was run on") from error
    if other:
        raise InputError(f"{name}: holds other weights than what is served; give a copy with another policy")
    try:
        policy.check_names(info["sub_networks"])
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return policy.to_dict()


def rung_promises(info: Message) -> list[tuple[float, float]]:
    """List each rung's limit of disagreement and its confidence; nothing where none is promised."""
    calibration = info["calibration"] or {}
    if calibration.get("kind") != "max_disagreement" or not calibration.get("met"):
        return []
    limits = [rung["limit"] for rung in calibration.get("ladder") or [calibration]]
    return [(limit, calibration["confidence"]) for limit in limits]


def rung_policies(info: Message) -> list[Message]:
    """List the policies to narrow by, as plain values, the first one's first."""
    ladder = (info["calibration"] or {}).get("ladder") or []
    return [rung["policy"] for rung in ladder] or [info["policy"]]


def read_state(file: Path) -> State:
    """Read what a service has kept of its checks; nothing where there is no file.

    Raises:
        InputError: If it is no such file.
    """
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        for revision in state.values():
            read_counters(revision)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"`monitor_file` {file}: holds no counts of a service ({first_line(error)}); name another file"
        ) from error
    return state  # type: ignore[no-any-return]


def merged_counts(files: Iterable[str | Path]) -> dict[str, list[DisagreementCounter]]:
    """Count together what the replicas of a service have kept by ``--monitor-file``.

    Args:
        files: Their files, in any order; what two of them hold counts once.

    Returns:
        A counter of each rung, by the network's revision.

    Raises:
        InputError: If a file is none of a service.
    """
    found: dict[str, list[DisagreementCounter]] = {}
    for file in files:
        for revision, rungs in read_state(Path(file)).items():
            counters = read_counters(rungs)
            for one, other in zip(found.setdefault(revision, counters), counters, strict=True):
                one.merge(other)
    return found


def read_counters(rungs: dict[str, Any]) -> list[DisagreementCounter]:
    """Read the counters of a network's rungs."""
    return [DisagreementCounter.from_dict(rungs[str(rung)]) for rung in range(len(rungs))]
