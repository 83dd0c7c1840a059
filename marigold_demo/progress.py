"""Progress: how far one prediction has come. Knows nothing of what is being computed or who is watching."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One moment of a prediction.

    Attributes:
        stage: What happens next: "encode", "denoise", "decode" or "align" in the networks; before them "wait"
            for one's turn, "download" of weights and "load" into memory.
        done: Network calls finished; in "download", megabytes that are here.
        total: Network calls in all, the same throughout one prediction; in "download", megabytes in all; in
            "wait", how many are before this one; 0 where nothing can be counted.
    """

    stage: str
    done: int
    total: int
