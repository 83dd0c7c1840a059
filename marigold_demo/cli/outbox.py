"""Outbox: where a command's files go, and under which names. Knows nothing of what they hold."""

from dataclasses import dataclass, field
from pathlib import Path

from marigold_demo.cli.terminal import answer, say
from marigold_demo.errors import SettingsError
from marigold_demo.io import export


@dataclass
class Outbox:
    """A folder that gets files under names that do not collide, and tells their paths on stdout."""

    folder: Path
    _taken: set[str] = field(default_factory=set)
    _said_replaced: bool = False

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"{self.folder} cannot be made or used ({error.strerror})"
            raise SettingsError(f"{told}; name another folder.") from error

    def free_stem(self, stem: str) -> str:
        """Return the stem, with a number where this run has used it already; upper case does not count."""
        count, free = 1, stem
        while free.casefold() in self._taken:
            count += 1
            free = f"{stem}_{count}"
        self._taken.add(free.casefold())
        return free

    def put(self, name: str, data: bytes) -> None:
        """Write one file whole and print its path; the first one that replaces another file is named.

        Raises:
            SettingsError: The folder cannot be written to, or the disk is full.
        """
        replaces = self._holds_another(name, data)
        try:
            path = export.save(self.folder, name, data)
        except OSError as error:
            told = f"{self.folder / name} cannot be written ({error.strerror})"
            raise SettingsError(f"{told}; make room or name another folder.") from error
        answer(path)
        if replaces and not self._said_replaced:
            self._said_replaced = True
            say(f"{path} was there with other content and is replaced, as are others of the same names.")

    def _holds_another(self, name: str, data: bytes) -> bool:
        """Tell whether the folder has a file of this name with other bytes."""
        path = self.folder / name
        try:
            return path.is_file() and (path.stat().st_size != len(data) or path.read_bytes() != data)
        except OSError:  # it may not be read
            return True
