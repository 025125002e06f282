"""Tables of few_rows.py and first_answer.py, and the transcript of newcomer.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharcs.calibration.promise import MOST_LOST
from tables import RESULTS, mean, percent, read, table

METHODS = {"ours": "ours, routed", "setfit": "SetFit's way", "head": "linear head on frozen embeddings"}
# What the shortest way of each library gives besides answers.
GIVES = {
    "ours": ("sharcs", "probabilities; cost of each text, a budget or a limit of the loss with a guarantee; ONNX"),
    "setfit": ("SetFit", "probabilities; needs few rows; ONNX"),
    "model2vec": ("model2vec", "probabilities; a network of vectors alone"),
    "scikit_learn": ("scikit-learn", "probabilities; words alone"),
    "transformers": ("transformers", "logits; every size and task"),
}

# By what policies are judged, and how many right answers may get lost.
POLICY_RULES = {
    ("right", 1.0): "right answers counted",
    ("right", MOST_LOST): f"and {percent(MOST_LOST)}% of right ones lost at most",
    ("label_score", 1.0): "the truth's probability",
    ("label_score", MOST_LOST): f"and {percent(MOST_LOST)}% lost at most, **the default**",
}
BUDGET_RULES = {"right": "counted", "label_score": "by probability"}


def few_rows(content: dict[str, Any]) -> str:
    """Compare methods: a row a set, a number of rows and a method; means over the draws."""
    rows = []
    for name, shots in dict.fromkeys((run["set"], run["shots"]) for run in content["runs"]):
        for method, title in METHODS.items():
            runs = [
                run for run in content["runs"] if (run["set"], run["shots"], run["method"]) == (name, shots, method)
            ]
            if runs:
                found = [run["accuracy"] for run in runs]
                rows.append(
                    [
                        name,
                        str(shots),
                        f"{runs[0]['rows']:,}",
                        title,
                        percent(mean(found)),
                        percent(mean(run["cost"] for run in runs), 0),
                        f"{mean(run['processor_seconds'] for run in runs):.0f}",
                    ]
                )
    headings = ("set", "rows a class", "rows", "method", "accuracy, %", "FLOPs, %", "processor seconds")
    return table(headings, rows)


def first_answer(content: dict[str, Any]) -> str:
    """Compare libraries: a row each, the most accurate first."""
    rows = []
    for run in sorted(content["runs"], key=lambda run: -run["accuracy"]):
        title, gives = GIVES[run["library"]]
        cost = percent(run["cost"], 0) if "cost" in run else ""
        cells = (str(run["lines"]), f"{run['processor_seconds']:.0f}", percent(run["accuracy"]), cost, gives)
        rows.append([title, *cells])
    headings = ("library", "lines", "processor seconds", "accuracy, %", "FLOPs of the encoder's, %", "what it gives")
    return table(headings, rows)


def policy(content: dict[str, Any]) -> str:
    """Compare rules by which a training chooses its policy: what is lost, in the ninth of ten draws, at what cost."""

    def cell(every: list[dict[str, Any]], count: int, rule: str, limit: float) -> str:
        of = _entry(every, rows=count, rule=rule, limit=limit)
        return f"{of['lost']:.1f} ({of['lost_in_nine_of_ten']:.1f}) at {percent(of['cost'], 0)}%"

    rows = [
        [name, str(count), *(cell(every, count, *rule) for rule in POLICY_RULES)]
        for name, every in content["pairs"].items()
        for count in dict.fromkeys(of["rows"] for of in every)
    ]
    return table(["set", "rows that choose", *POLICY_RULES.values()], rows)


def within_budgets(content: dict[str, Any]) -> str:
    """Compare the two ways to judge policies where the best within a budget is chosen: points lost."""
    pairs: dict[str, list[dict[str, Any]]] = content["pairs"]
    budgets = sorted({of["budget"] for every in pairs.values() for of in every if "budget" in of})
    asked = [(budget, rule) for budget in budgets for rule in BUDGET_RULES]
    rows = [
        [name, str(count), *(f"{_entry(every, rows=count, budget=of, rule=by)['lost']:.1f}" for of, by in asked)]
        for name, every in pairs.items()
        for count in dict.fromkeys(of["rows"] for of in every)
    ]
    headings = [f"{percent(budget, 0)}%, {BUDGET_RULES[rule]}" for budget, rule in asked]
    return table(["set", "rows that choose", *headings], rows)


def _entry(every: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """Find the entry that has these values."""
    return next(of for of in every if wanted.items() <= of.items())


def newcomer(content: dict[str, Any]) -> str:
    """Write down what was typed, what came back, and the seconds that it took."""
    lines = []
    for step in content["steps"]:
        lines += [f"$ {step['command']}", *step["said"], f"[{step['seconds']:.0f} s]", ""]
    return "\n".join(["```text", *lines[:-1], "```"])


def of_file(show: Callable[[dict[str, Any]], str], name: str, command: str) -> str:
    """Show a study's results where they are there."""
    if not (RESULTS / f"{name}.json").exists():
        return f"Not measured yet: `python benchmarks/{command}`."
    return show(read(f"{name}.json"))


TABLES: dict[str, Callable[[], str]] = {
    "few-rows": lambda: of_file(few_rows, "few_rows", "few_rows.py run"),
    "first-answer": lambda: of_file(first_answer, "first_answer", "first_answer.py"),
    "policy": lambda: of_file(policy, "policy", "policy_study.py"),
    "policy-budgets": lambda: of_file(within_budgets, "policy", "policy_study.py"),
    "newcomer": lambda: of_file(newcomer, "newcomer", "newcomer.py"),
}
