"""Few rows a class: ours, SetFit's way, and a linear head on frozen embeddings, all of the same MiniLM.

    python3 -m venv .venv-setfit
    .venv-setfit/bin/pip install -c constraints.txt -e ".[train,minilm]" setfit
    .venv-setfit/bin/python benchmarks/few_rows.py tune   # settings, on train rows that were not drawn
    .venv-setfit/bin/python benchmarks/few_rows.py run    # test rows; resumes: what is in few_rows.json is skipped

Rows are drawn from train, so many a class; nothing else is learned from, and nothing is chosen by more rows, since a
user with few has no more. SETTINGS holds what ``tune`` found best (few_rows_tuning.json has all of it). Ours is
``sharcs.Classifier`` as it is: it is measured as it answers after ``fit``, and each of its networks alone. SetFit
learns from pairs, as its library makes them, and ends in logistic regression. The linear head is
logistic regression on the normalised mean of the tokens, its penalty chosen by cross-validation of the drawn rows.
``tools/docs_tables.py`` writes the table.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common import DATA, RESULTS, machine, processor_seconds, save, test_file
from sharcs.data.named import minilm_path
from sharcs.data.texts import load_texts

if TYPE_CHECKING:
    from collections.abc import Callable

SETS = ("sst2", "banking77")
SHOTS = (8, 50)
SEEDS = (0,)  # one draw: ours takes ten minutes of processor time each
# Of each kind, equal and unequal: 20 as in SetFit's paper where that is affordable, of many classes fewer.
PAIRS_A_ROW = {("sst2", 8): 20, ("sst2", 50): 20, ("banking77", 8): 5, ("banking77", 50): 1}
PENALTIES = (1.0, 10.0, 100.0)
TUNED_SHOTS, TUNED_ROWS = 8, 1000
# What tune tries; the first of each is the library's own default.
TRIED: dict[str, tuple[dict[str, Any], ...]] = {
    "ours": ({}, {"epochs": 8}),
    "setfit": ({"rate": 2e-5}, {"rate": 1e-4}),  # on sst2; on banking77 each takes long
    "head": ({},),
}
SETTINGS: dict[str, dict[str, Any]] = {"ours": {}, "setfit": {"rate": 1e-4}, "head": {}}

Rows = tuple[list[str], list[str]]


def rows_of(path: str) -> Rows:
    """Read texts and labels."""
    read = load_texts(path)
    assert read.labels is not None
    return list(read.texts), [str(label) for label in read.labels]


def drawn(labels: list[str], shots: int, seed: int) -> list[int]:
    """Draw so many rows of each class, ascending; of a class that has fewer, all."""
    generator = np.random.default_rng([seed, shots])
    given = np.array(labels)
    chosen = [generator.permutation(np.flatnonzero(given == name))[:shots] for name in sorted(set(labels))]
    return sorted(int(row) for of_class in chosen for row in of_class)


def share_right(found: Any, labels: list[str]) -> float:
    return float((np.asarray(found) == np.array(labels)).mean())


def ours(train: Rows, measured: Rows, seed: int, **settings: Any) -> dict[str, Any]:
    """Fit and answer; what each network reaches alone stands beside."""
    from sharcs import Classifier

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        classifier = Classifier(seed=seed, **settings).fit(*train)
    texts, labels = measured
    result: dict[str, Any] = {"accuracy": share_right(classifier.predict(texts), labels)}
    result["cost"] = float(np.mean(classifier.costs(texts)))
    result["networks"] = each_network(classifier, texts, labels)
    result["warned"] = [str(one.message) for one in said if "promised" in str(one.message)]
    return result


def each_network(classifier: Any, texts: list[str], labels: list[str]) -> dict[str, Any]:
    """Measure every network of a classifier on every text: accuracy and cost."""
    from sharcs.jobs.answers import all_answers
    from sharcs.jobs.given import text_data

    answers = all_answers(classifier.trained_, text_data(texts, labels), labelled=True)
    right, costs = answers.way_right.mean(axis=0), answers.relative_costs.mean(axis=0)
    return {name: {"accuracy": float(right[i]), "cost": float(costs[i])} for i, name in enumerate(answers.names)}


def setfit(train: Rows, measured: Rows, seed: int, *, rate: float, pairs: int) -> dict[str, Any]:
    """Train as SetFit's library does: pairs, then logistic regression."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(minilm_path())
    names = sorted(set(train[1]))
    rows = Dataset.from_dict({"text": train[0], "label": [names.index(label) for label in train[1]]})
    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work,
            batch_size=16,
            num_epochs=1,
            num_iterations=pairs,
            body_learning_rate=rate,
            max_length=128,
            seed=seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    found = [names[int(place)] for place in model.predict(measured[0], show_progress_bar=False)]
    return {"accuracy": share_right(found, measured[1]), "cost": 1.0}


@torch.inference_mode()
def embeddings(texts: list[str]) -> Any:
    """Average the tokens of each text by the encoder as it came, and normalise: float32 ``[texts, hidden]``."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(minilm_path()), AutoModel.from_pretrained(minilm_path())
    model.train(False)
    parts = []
    for start in range(0, len(texts), 64):
        batch = tokenizer(
            texts[start : start + 64], truncation=True, max_length=128, padding=True, return_tensors="pt"
        )
        real = batch["attention_mask"].unsqueeze(-1).float()
        mean = (model(**batch).last_hidden_state * real).sum(1) / real.sum(1)
        parts.append(torch.nn.functional.normalize(mean).numpy())
    return np.concatenate(parts)


def head(train: Rows, measured: Rows, seed: int) -> dict[str, Any]:
    """Fit logistic regression on frozen embeddings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    model = GridSearchCV(LogisticRegression(max_iter=1000), {"C": PENALTIES}, cv=folds)
    model.fit(embeddings(train[0]), train[1])
    found = model.predict(embeddings(measured[0]))
    return {"accuracy": share_right(found, measured[1]), "cost": 1.0, **model.best_params_}


METHODS: dict[str, Callable[..., dict[str, Any]]] = {"head": head, "ours": ours, "setfit": setfit}


def one(method: str, name: str, shots: int, seed: int, settings: dict[str, Any], *, tuned: bool) -> dict[str, Any]:
    """Run a method on drawn rows; measure it on test rows, or while tuning on train rows that were not drawn."""
    texts, labels = rows_of(str(DATA / name / "train.csv.gz"))
    chosen = drawn(labels, shots, seed)
    train = [texts[row] for row in chosen], [labels[row] for row in chosen]
    if tuned:
        others = np.setdiff1d(np.arange(len(texts)), chosen)
        others = np.random.default_rng(seed).permutation(others)[:TUNED_ROWS]
        measured = [texts[row] for row in others], [labels[row] for row in others]
    else:
        measured = rows_of(test_file(name))
    more = {"pairs": PAIRS_A_ROW[name, shots]} if method == "setfit" else {}
    start = processor_seconds()
    result = METHODS[method](train, measured, seed, **settings, **more)
    about = {"method": method, "set": name, "shots": shots, "seed": seed, "settings": settings, "rows": len(chosen)}
    return about | result | {"measured": len(measured[0]), "processor_seconds": processor_seconds() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("tune", "run"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--shots", nargs="+", type=int, default=SHOTS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tuned = options.command == "tune"
    file = RESULTS / ("few_rows_tuning.json" if tuned else "few_rows.json")
    content = json.loads(file.read_text()) if file.exists() else {"runs": [], **machine()}
    keys = ("method", "set", "shots", "seed", "settings")
    finished = [tuple(run[key] for key in keys) for run in content["runs"]]
    draws = [
        (shots, name, seed)
        for name in options.sets
        for shots in ((TUNED_SHOTS,) if tuned else options.shots)
        for seed in SEEDS
    ]
    for (of_class, name, seed), method in itertools.product(draws, options.methods):
        for settings in TRIED[method] if tuned else (SETTINGS[method],):
            if (method, name, of_class, seed, settings) in finished:
                continue
            result = one(method, name, of_class, seed, settings, tuned=tuned)
            print(json.dumps(result), flush=True)
            content = json.loads(file.read_text()) if file.exists() else content  # another process may have written
            content["runs"].append(result)
            save(file, content)


if __name__ == "__main__":
    main()
