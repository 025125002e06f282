"""Has optimum answer texts by an export; it runs in an environment of its own, which has none of this repository.

``python optimum_reads.py DIRECTORY < texts.json`` writes JSON: the logits of all texts in one padded batch, and the
label and score that a pipeline gives to each.
"""

import json
import sys

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline


def main() -> None:
    """Answer the texts of standard input: a list of texts, or of pairs."""
    folder, texts = sys.argv[1], json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = ORTModelForSequenceClassification.from_pretrained(folder)
    pairs = isinstance(texts[0], list)
    given = list(zip(*texts, strict=True)) if pairs else [texts]
    batch = tokenizer(*map(list, given), padding=True, truncation=True, return_tensors="pt")
    logits = model(**batch).logits.tolist()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    asked = [{"text": first, "text_pair": second} for first, second in texts] if pairs else texts
    answers = classify(asked, truncation=True)
    json.dump({"logits": logits, "answers": answers, "input_ids": batch["input_ids"].tolist()}, sys.stdout)


if __name__ == "__main__":
    main()
