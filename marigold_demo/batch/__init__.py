"""Many photos: found, read, predicted and written at the same time, and not done again when they are done.

    sources -> Item -> [read] -> Loaded -> [predict] -> Predicted -> [write] -> Row -> manifest.jsonl

The stages (`stages`) are plain functions whose arguments and results can be pickled; `engine` runs them in
threads and processes of this machine.
"""
