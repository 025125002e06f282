import pandas as pd

from sharcs import Classifier

train, test = pd.read_csv("train.csv"), pd.read_csv("test.csv")
classifier = Classifier().fit(train["text"], train["label"])
answers = classifier.predict(test["text"])
