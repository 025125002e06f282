"""Counters in Prometheus' text form."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

HELP = {
    "sharcs_requests_total": "Requests by route and status code.",
    "sharcs_request_seconds": "Time to answer a request.",
    "sharcs_queue_seconds": "Time that a text waits for an engine process.",
    "sharcs_batch_texts": "Texts of a micro-batch.",
    "sharcs_engine_seconds_total": "Time that engine processes worked, by what for: answers or checks.",
    "sharcs_answers_total": "Answers by the sub-network that gave them, and the one that ran first.",
    "sharcs_classes_total": "Answers by class.",
    "sharcs_scores": "Probability of the predicted class.",
    "sharcs_cost_sum": "Cost of all answers, each over the full network's.",
    "sharcs_tokens_total": "Tokens read.",
    "sharcs_degraded_total": "Answers of a rung above the first.",
    "sharcs_refused_total": "Texts refused because the narrowest rung could not keep the deadline.",
    "sharcs_expired_total": "Texts refused later, because they would not have been answered in time.",
    "sharcs_cancelled_total": "Texts whose client left before the answer.",
    "sharcs_deadline_missed_total": "Answers after their deadline.",
    "sharcs_worker_restarts_total": "Engine processes that died and were replaced.",
    "sharcs_requeued_total": "Texts queued again after the death of their engine process.",
    "sharcs_poisoned_total": "Texts given up because engine processes died of them.",
    "sharcs_queue_texts": "Texts that wait.",
    "sharcs_brownout_rung": "The rung that texts are answered by; 0 is the calibrated policy.",
    "sharcs_workers_ready": "Engine processes that are ready.",
    "sharcs_connections": "Connections that are open.",
    "sharcs_connections_refused_total": "Connections refused because too many were open.",
    "sharcs_drift_seen_total": "Texts answered by a rung, of which a share is checked.",
    "sharcs_drift_checked_total": "Texts of a rung that the full network was asked about, too.",
    "sharcs_drift_disagreements_total": "Those of them that it answers otherwise.",
    "sharcs_drift_estimate": "Share of a rung's answers that the full network answers otherwise.",
    "sharcs_drift_lower_bound": "What that share is above, at the promise's confidence.",
    "sharcs_drift_alarm": "1 once a rung's limit of disagreement has been refuted.",
    "sharcs_shadow_checked_total": "Texts that the shadow was asked about.",
    "sharcs_shadow_otherwise_total": "Those of them that it answers otherwise than the first rung.",
    "sharcs_shadow_cost_sum": "Cost of the shadow's answers, each over the full network's.",
    "sharcs_checks_waiting": "Texts that wait to be checked.",
    "sharcs_checks_dropped_total": "Texts that were drawn to be checked and were not: too many waited.",
    "sharcs_promise_max_disagreement": "Limit of disagreement that the policy was calibrated for.",
    "sharcs_promise_confidence": "Confidence of that limit.",
    "sharcs_model_info": "The network that answers.",
}
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BUCKETS = {
    "sharcs_request_seconds": SECONDS,
    "sharcs_queue_seconds": SECONDS,
    "sharcs_batch_texts": (1, 2, 4, 8, 16, 32, 64, 128),
    "sharcs_scores": (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """What a service counts. Only the event loop's thread may touch it."""

    def __init__(self) -> None:
        self._values: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._counts: dict[str, list[int]] = {name: [0] * (len(edges) + 1) for name, edges in BUCKETS.items()}
        self._sums: dict[str, float] = defaultdict(float)

    def add(self, name: str, labels: Labels = (), amount: float = 1.0) -> None:
        """Count."""
        self._values[name][labels] += amount

    def put(self, name: str, value: float, labels: Labels = ()) -> None:
        """Set what goes up and down."""
        self._values[name][labels] = value

    def clear(self, name: str) -> None:
        """Forget what was put."""
        self._values.pop(name, None)

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""
        self._counts[name][bisect_left(BUCKETS[name], value)] += 1
        self._sums[name] += value

    def text(self) -> str:
        """Write everything."""
        lines = []
        for name, help_text in HELP.items():
            kind = "histogram" if name in BUCKETS else "counter" if name.endswith(("_total", "_sum")) else "gauge"
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
            if name in BUCKETS:
                lines += self._histogram(name)
                continue
            values = self._values[name] or ({(): 0.0} if name.endswith("_total") else {})
            lines += [f"{name}{_written(labels)} {value:.17g}" for labels, value in values.items()]
        return "\n".join(lines) + "\n"

    def _histogram(self, name: str) -> list[str]:
        lines, below = [], 0
        for edge, count in zip((*BUCKETS[name], "+Inf"), self._counts[name], strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{edge}"}} {below}')
        return [*lines, f"{name}_sum {self._sums[name]:.17g}", f"{name}_count {below}"]


def _written(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = ((name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
