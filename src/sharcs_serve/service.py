"""What each route does: bounds, admission, answers. What runs the texts is :mod:`sharcs_serve.pool`'s affair."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from sharcs_runtime.errors import InputError
from sharcs_runtime.policy import RoutingPolicy, policy_for_budget
from sharcs_serve.admission import LateError, Queue, Waiting
from sharcs_serve.checks import Checks, keep_state
from sharcs_serve.flight import Departure
from sharcs_serve.formats import Asked, RefusedError, overloaded, read_classify, read_json, read_predict, write
from sharcs_serve.metrics import Metrics
from sharcs_serve.pool import PoisonError, Pool
from sharcs_serve.settings import Settings
from sharcs_serve.stored import read_state, rung_promises, stored_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import Receive

    from sharcs_serve.wire import Message

LOG = logging.getLogger("sharcs.serve")
HERE = Path(__file__).parent
READ_AWAY = 10  # times the bound: so much of a body that is too long is read, so that its client sees the answer


class Service:
    """A network behind routes.

    Args:
        settings: Its bounds.

    Raises:
        InputError: If the monitor's file is none.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.queue = Queue([1.0], settings.deadline_ms / 1000, settings.workers)
        state = {} if settings.monitor_file is None else read_state(settings.monitor_file)
        self.checks = Checks(settings.check_share, self.metrics, state)
        self.pool = Pool(settings.folder, self.queue, self.metrics, settings.workers, self.checks)
        self.draining = False
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._keeping: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the engine processes.

        Raises:
            InputError: If the network can't be served.
        """
        await self.pool.start(self._accept)
        if self.settings.monitor_file is not None:
            self._keeping.add(asyncio.create_task(keep_state(self.checks, self.settings.monitor_file)))

    async def stop(self) -> None:
        """End the engine processes, and keep what was counted."""
        await _ended(self._reloads)
        await self.pool.stop()
        await _ended(self._keeping)

    def reload(self) -> None:
        """Begin to serve what the folder holds now; what can't be served is a line in the log, and no more."""
        self._reloads.add(task := asyncio.ensure_future(self._reload()))
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        async with self._reloading:
            try:
                await self.pool.reload(self._accept)
            except InputError as error:
                LOG.error("not reloaded, and all goes on as before: %s", error)
            else:
                LOG.info("reloaded: revision %s answers", self.pool.info["revision"])

    def _accept(self, info: Message) -> None:
        """Learn what a network that is about to answer promises.

        Raises:
            InputError: If it can't be checked, or compared with the shadow, as the settings say.
        """
        shadow = self.settings.shadow
        self.checks.learn(info, None if shadow is None else stored_policy(shadow, info))
        calibration = info["calibration"] or {}
        ladder = calibration.get("ladder") or []
        costs = [rung["cost_ratio"] for rung in ladder] or [calibration.get("cost_ratio") or 1.0]
        self.queue.rung_costs = costs if self.settings.brown_out else costs[:1]
        self.queue.rung = min(self.queue.rung, len(self.queue.rung_costs) - 1)
        for name in ("sharcs_promise_max_disagreement", "sharcs_promise_confidence", "sharcs_model_info"):
            self.metrics.clear(name)
        if promises := rung_promises(info):
            self.metrics.put("sharcs_promise_max_disagreement", promises[0][0])
            self.metrics.put("sharcs_promise_confidence", promises[0][1])
        labels = (("model", info["model"]), ("revision", info["revision"]))
        self.metrics.put("sharcs_model_info", 1.0, labels)

    async def answer(self, asked: Asked, receive: Receive) -> list[Any]:
        """Answer a request's texts.

        Args:
            asked: The request.
            receive: Comes back when its client has left.

        Raises:
            RefusedError: If it is too large, can't be answered in time, or kills engine processes.
            InputError: If it asks for what there is not.
            ClientDisconnect: If its client has left.
        """
        settings = self.settings
        if not asked.texts:
            raise RefusedError(400, "Empty", "inputs: there is no text; give one at least")
        if len(asked.texts) > settings.max_inputs:
            raise RefusedError(413, "Validation", f"inputs: over {settings.max_inputs} texts; send fewer")
        if any(sum(map(len, _parts(text))) > settings.max_characters for text in asked.texts):
            raise RefusedError(413, "Validation", f"inputs: a text of over {settings.max_characters} characters")
        waiting = self._admit(asked)
        gone = Departure(receive, waiting)
        try:
            answers = [await each.answer for each in waiting]
        except asyncio.CancelledError:
            if gone.seen:
                raise ClientDisconnect from None
            raise
        except LateError:
            self.metrics.add("sharcs_expired_total", amount=len(waiting))
            raise overloaded(1) from None
        except PoisonError as error:
            raise RefusedError(424, "Backend", f"text {error}: engine processes died of it") from error
        finally:
            gone.stop()
            for each in waiting:
                if each.answer.cancelled() or each.answer.cancel():
                    self.metrics.add("sharcs_cancelled_total")
                else:
                    each.answer.exception()  # one of several is enough to be told
        self._count(answers, late=asyncio.get_running_loop().time() > waiting[0].deadline)
        if waiting[0].policy is None:
            for text, answered in zip(asked.texts, answers, strict=True):
                self.checks.take_note(text, answered)
            self.pool.wake()
        return answers

    def _admit(self, asked: Asked) -> list[Waiting]:
        """Queue a request's texts.

        Raises:
            RefusedError: If they could not be answered in time.
            InputError: If it asks for what there is not.
        """
        settings, queue, loop = self.settings, self.queue, asyncio.get_running_loop()
        policy = self._policy(asked)
        degradable = asked.brown_out and settings.brown_out and policy is None
        now = loop.time()
        deadline = now + (asked.deadline_ms or settings.deadline_ms) / 1000
        waiting = [
            Waiting(deadline, queue.next_number(), text, policy, degradable, now, loop.create_future())
            for text in asked.texts
        ]
        seconds = queue.refusal(now, waiting)
        if seconds is not None:
            self.metrics.add("sharcs_refused_total", amount=len(waiting))
            raise overloaded(seconds)
        self.pool.put(waiting)
        return waiting

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
        for answer in answers:
            names, labels = answer["info"]["sub_networks"], answer["info"]["labels"]
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
        promised = {"promise": promise if calibration else None, "rungs": rungs, "checks": self.checks.summary()}
        return JSONResponse(about | promised | {"now": now})

    async def counts(self, _request: Request) -> Response:
        """Write the metrics."""
        self.metrics.put("sharcs_queue_texts", len(self.queue))
        self.metrics.put("sharcs_workers_ready", self.pool.ready)
        self.checks.measure()
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
            async with asyncio.timeout(self.settings.body_seconds):
                body = await self._body(request)
            asked = read(read_json(body))
        except TimeoutError:
            raise RefusedError(408, "Validation", "the body took too long", {"Connection": "close"}) from None
        except (ValueError, RecursionError) as error:
            text = str(error) if isinstance(error, InputError) else "the body is no JSON"
            raise RefusedError(422, "Validation", text) from error
        answers = await self.answer(asked, request.receive)
        names = [answer["info"]["sub_networks"][answer["answered_by"]] for answer in answers]
        costs = [1.0 if answer["cost"] is None else answer["cost"] for answer in answers]
        headers = {
            "x-compute-tokens": str(sum(answer["tokens"] for answer in answers)),
            "x-sharcs-sub-network": ",".join(names),
            "x-sharcs-cost": f"{sum(costs) / len(costs):.4f}",
            "x-sharcs-degraded": str(sum(answer["rung"] > 0 for answer in answers)),
            "x-sharcs-revision": ",".join(dict.fromkeys(answer["info"]["revision"] for answer in answers)),
        }
        return JSONResponse(write(asked, answers), headers=headers)

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


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _parts(text: Any) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
