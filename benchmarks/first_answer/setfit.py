import pandas as pd
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from sharcs.data.named import minilm_path

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
model = SetFitModel.from_pretrained(minilm_path(), labels=sorted(train["label"].unique()))
arguments = TrainingArguments(num_iterations=2, report_to="none", save_strategy="no")
Trainer(model=model, args=arguments, train_dataset=Dataset.from_pandas(train)).train()
answers = model.predict(test["text"].tolist())
