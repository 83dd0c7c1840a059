"""Named bytes into one ZIP. Knows nothing of what they hold."""

import io
import zipfile
from collections.abc import Mapping

PACKED = (".jpg", ".png")  # packing these again takes time and saves nothing


def to_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a ZIP with a fixed date, so that the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            kind = zipfile.ZIP_STORED if name.endswith(PACKED) else zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compress_type=kind, compresslevel=1)
    return buffer.getvalue()
