"""Read the files of a data set, unpacked in a folder or still in its tar. Knows no data set and no format."""

import tarfile
from pathlib import Path

from marigold_demo.errors import DataError


class DataFiles:
    """A folder, or an uncompressed tar file that is never unpacked."""

    def __init__(self, place: Path) -> None:
        """Open a folder, or list what is in a tar.

        Raises:
            DataError: There is neither, or the tar is damaged or compressed.
        """
        self.place = place
        self._spans: dict[str, tuple[int, int]] = {}  # by name, where in the tar, and how many bytes
        if place.is_dir():
            return
        try:
            with tarfile.open(place, "r:") as tar:
                self._spans = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar if m.isreg()}
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{place} is neither a folder nor a readable tar file; get it again.") from error

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DataError: There is no such file, or it cannot be read.
        """
        try:
            if self.place.is_dir():
                return (self.place / name).read_bytes()
            start, size = self._spans[name]
            with self.place.open("rb") as tar:
                tar.seek(start)
                return tar.read(size)
        except (OSError, KeyError) as error:
            told = f"{name} is missing in {self.place} or cannot be read"
            raise DataError(f"{told}; the data set is incomplete.") from error
