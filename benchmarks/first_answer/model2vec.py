import pandas as pd
from model2vec.distill import distill
from model2vec.train import StaticModelForClassification

from sharcs.data.named import minilm_path

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
classifier = StaticModelForClassification.from_static_model(model=distill(minilm_path()))
classifier.fit(train["text"].tolist(), train["label"].tolist())
answers = classifier.predict(test["text"].tolist())
