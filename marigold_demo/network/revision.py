"""Which weights a checkpoint folder holds, in a word that a recipe can keep. Knows nothing of networks."""

import hashlib
from functools import lru_cache
from pathlib import Path

WEIGHTS = (".safetensors", ".json")


def revision_of(folder: Path) -> str:
    """Return the hub's commit for a folder of its cache, else a digest of all weights and configs."""
    if folder.parent.name == "snapshots":
        return folder.name
    files = sorted(file for file in folder.rglob("*") if file.suffix in WEIGHTS and file.is_file())
    stamps = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _digest(folder, stamps)


@lru_cache(maxsize=8)
def _digest(folder: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, _, _ in stamps:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").digest()
        total.update(file.relative_to(folder).as_posix().encode() + b"\0" + content)
    return f"sha256:{total.hexdigest()[:32]}"
