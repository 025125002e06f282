"""What each route does: bounds, admission, answers. What runs the texts is :mod:`sharcs_serve.pool`'s affair."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from sharcs_runtime.errors import InputError
from sharcs_runtime.policy import RoutingPolicy, policy_for_budget
from sharcs_serve.admission import Queue, Waiting
from sharcs_serve.formats import Asked, read_classify, read_predict, write
from sharcs_serve.metrics import Metrics
from sharcs_serve.pool import PoisonError, Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

HERE = Path(__file__).parent
READ_AWAY = 10  # times the bound: so much of a body that is too long is read, so that its client sees the answer


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
        body_seconds: In which a body has to be there.
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


class RefusedError(Exception):
    """A request that is not answered: status, type and text of the error, and headers."""

    def __init__(self, status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.kind, self.headers = status, kind, headers or {}


class Service:
    """A network behind routes.

    Args:
        settings: Its bounds.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.queue = Queue([1.0], settings.deadline_ms / 1000, settings.workers)
        self.pool = Pool(settings.folder, self.queue, self.metrics, settings.workers)
        self.draining = False

    async def start(self) -> None:
        """Start the engine processes.

        Raises:
            InputError: If the network can't be served.
        """
        await self.pool.start()
        calibration = self.pool.info["calibration"] or {}
        ladder = calibration.get("ladder") or []
        costs = [rung["cost_ratio"] for rung in ladder] or [calibration.get("cost_ratio") or 1.0]
        self.queue.rung_costs = costs if self.settings.brown_out else costs[:1]
        if calibration.get("kind") == "max_disagreement" and calibration.get("met"):
            self.metrics.put("sharcs_promise_max_disagreement", calibration["limit"])
            self.metrics.put("sharcs_promise_confidence", calibration["confidence"])
        labels = (("model", self.pool.info["model"]), ("revision", self.pool.info["revision"]))
        self.metrics.put("sharcs_model_info", 1.0, labels)

    async def answer(self, asked: Asked) -> list[Any]:
        """Answer a request's texts.

        Raises:
            RefusedError: If it is too large, comes too late, or kills engine processes.
            InputError: If it asks for what there is not.
        """
        settings, queue = self.settings, self.queue
        if not asked.texts:
            raise RefusedError(400, "Empty", "inputs: there is no text; give one at least")
        if len(asked.texts) > settings.max_inputs:
            raise RefusedError(413, "Validation", f"inputs: over {settings.max_inputs} texts; send fewer")
        if any(sum(map(len, _parts(text))) > settings.max_characters for text in asked.texts):
            raise RefusedError(413, "Validation", f"inputs: a text of over {settings.max_characters} characters")
        policy = self._policy(asked)
        deadline = (asked.deadline_ms or settings.deadline_ms) / 1000
        degradable = asked.brown_out and settings.brown_out and policy is None
        seconds = queue.refusal(deadline, len(asked.texts), degradable)
        if seconds is not None:
            self.metrics.add("sharcs_refused_total", amount=len(asked.texts))
            text = f"too much to do; come again in {seconds} s"
            raise RefusedError(429, "Overloaded", text, {"Retry-After": str(seconds)})
        loop = asyncio.get_running_loop()
        now = loop.time()
        waiting = [
            Waiting(now + deadline, queue.next_number(), text, policy, degradable, now, loop.create_future())
            for text in asked.texts
        ]
        self.pool.put(waiting)
        try:
            answers = await asyncio.gather(*(each.answer for each in waiting))
        except PoisonError as error:
            raise RefusedError(424, "Backend", f"text {error}: engine processes died of it") from error
        finally:
            for each in waiting:
                if each.answer.cancelled() or each.answer.cancel():  # a gathering that is left cancels them itself
                    self.metrics.add("sharcs_cancelled_total")
        self._count(answers, late=loop.time() - now > deadline)
        return answers

    def _policy(self, asked: Asked) -> dict[str, Any] | None:
        """Look up what a request asks to be answered by; None where the service decides."""
        if asked.sub_network is not None:
            policy = RoutingPolicy(start=asked.sub_network)
            policy.check_names(self.pool.info["sub_networks"])
            return policy.to_dict()
        if asked.budget is not None:
            return policy_for_budget(self.pool.info["calibration"], asked.budget).to_dict()
        return None

    def _count(self, answers: list[Any], late: bool) -> None:
        names, labels = self.pool.info["sub_networks"], self.pool.info["labels"]
        for answer in answers:
            shares = answer["probabilities"]
            best = max(range(len(shares)), key=shares.__getitem__)
            by = (("sub_network", names[answer["answered_by"]]), ("start", names[answer["start"]]))
            self.metrics.add("sharcs_answers_total", by)
            self.metrics.add("sharcs_classes_total", (("class", labels[best]),))
            self.metrics.observe("sharcs_scores", shares[best])
            self.metrics.add("sharcs_cost_sum", amount=1.0 if answer["cost"] is None else answer["cost"])
            self.metrics.add("sharcs_tokens_total", amount=answer["tokens"])
            if answer["rung"]:
                self.metrics.add("sharcs_degraded_total", (("rung", str(answer["rung"])),))
            self.metrics.add("sharcs_deadline_missed_total", amount=late)

    # Routes

    async def predict(self, request: Request) -> Response:
        """Answer in the form of text-embeddings-inference, or of Hugging Face's client."""
        return await self._respond(request, lambda body: read_predict(body, self.settings.pairs))

    async def classify(self, request: Request) -> Response:
        """Answer in vLLM's form."""
        return await self._respond(request, read_classify)

    async def health(self, _request: Request) -> Response:
        """Say whether the front lives and an engine process does."""
        return PlainTextResponse("ok" if self.pool.ready else "no engine process", 200 if self.pool.ready else 503)

    async def ready(self, _request: Request) -> Response:
        """Say whether to send requests here."""
        if self.draining:
            return PlainTextResponse("draining", 503)
        return await self.health(_request)

    async def info(self, _request: Request) -> Response:
        """Say what answers here."""
        about = {name: value for name, value in self.pool.info.items() if name not in ("calibration", "routed")}
        calibration = self.pool.info["calibration"] or {}
        promise = {name: calibration.get(name) for name in ("kind", "limit", "confidence", "cost_ratio", "met")}
        kept = ("limit", "cost_ratio", "policy")
        rungs = [{name: rung[name] for name in kept} for rung in calibration.get("ladder") or []]
        now = {"rung": self.queue.rung, "waiting": len(self.queue), "workers": self.pool.ready}
        return JSONResponse(about | {"promise": promise if calibration else None, "rungs": rungs, "now": now})

    async def counts(self, _request: Request) -> Response:
        """Write the metrics."""
        self.metrics.put("sharcs_queue_texts", len(self.queue))
        self.metrics.put("sharcs_workers_ready", self.pool.ready)
        rung = self.queue.look(asyncio.get_running_loop().time())
        self.metrics.put("sharcs_brownout_rung", rung)
        return PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self, _request: Request) -> Response:
        """Show a page to try a text."""
        return HTMLResponse((HERE / "page.html").read_text(encoding="utf-8"))

    async def docs(self, _request: Request) -> Response:
        """Hand out the description of the routes."""
        return Response((HERE / "openapi.json").read_bytes(), media_type="application/json")

    async def _respond(self, request: Request, read: Callable[[Any], Asked]) -> Response:
        try:
            body = json.loads(await asyncio.wait_for(self._body(request), self.settings.body_seconds))
            asked = read(body)
        except TimeoutError:
            raise RefusedError(408, "Validation", "the body took too long", {"Connection": "close"}) from None
        except (ValueError, RecursionError) as error:
            text = str(error) if isinstance(error, InputError) else "the body is no JSON"
            raise RefusedError(422, "Validation", text) from error
        answers = await _unless_gone(request, self.answer(asked))
        info = self.pool.info
        costs = [1.0 if answer["cost"] is None else answer["cost"] for answer in answers]
        headers = {
            "x-compute-tokens": str(sum(answer["tokens"] for answer in answers)),
            "x-sharcs-sub-network": ",".join(info["sub_networks"][answer["answered_by"]] for answer in answers),
            "x-sharcs-cost": f"{sum(costs) / len(costs):.4f}",
            "x-sharcs-degraded": str(sum(answer["rung"] > 0 for answer in answers)),
            "x-sharcs-revision": info["revision"],
        }
        return JSONResponse(write(asked, answers, info), headers=headers)

    async def _body(self, request: Request) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > READ_AWAY * self.settings.max_body:
                break
            if size <= self.settings.max_body:
                parts.append(part)
        if size > self.settings.max_body:
            text = f"the body has more than {self.settings.max_body} bytes"
            raise RefusedError(413, "Validation", text, {"Connection": "close"})
        return b"".join(parts)


async def _unless_gone(request: Request, answering: Awaitable[list[Any]]) -> list[Any]:
    """Wait for answers, and give them up when the client leaves."""
    task = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(request.receive())  # the body has been read, so only a disconnect is left to come
    await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise ClientDisconnect
    gone.cancel()
    return task.result()


def _parts(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
