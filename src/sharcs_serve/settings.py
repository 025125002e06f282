"""What bounds a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What bounds a service.

    Attributes:
        folder: The model or the export.
        workers: Engine processes.
        deadline_ms: Milliseconds that a request may take by default.
        brown_out: Whether texts may be answered by later rungs under load.
        pairs: Whether the network takes pairs of texts.
        keys: Who has one of these is answered; everybody, where there is none.
        max_body: Bytes of a body.
        max_inputs: Texts of a request.
        max_characters: Characters of a text.
        body_seconds: In which a body, or the head of a request, has to be there.
        max_connections: Open at once.
        check_share: Share of the texts that are checked afterwards.
        monitor_file: Keeps what checks have counted; nothing is kept without one.
        shadow: A model or an export with the same networks, or a file of one, whose policy is compared.
    """

    folder: Path
    workers: int = 1
    deadline_ms: float = 1000.0
    brown_out: bool = True
    pairs: bool = False
    keys: tuple[str, ...] = ()
    max_body: int = 2_000_000
    max_inputs: int = 32
    max_characters: int = 100_000
    body_seconds: float = 10.0
    max_connections: int = 10_000
    check_share: float = 0.0
    monitor_file: Path | None = None
    shadow: Path | None = None
