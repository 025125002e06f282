"""Tables in and out, texts and labels, tokenised rows."""
