"""The methods that routing is compared with, each with its own training regime, on one encoder and one counter."""
