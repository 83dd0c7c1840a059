"""Parses the form of an upload while it comes, within bounds. Knows nothing of requests."""

from itertools import groupby

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from marigold_demo.io.cache_folder import Upload
from marigold_demo.io.private_folder import safe_name

MOST_FILES, MOST_FIELD_BYTES, MOST_BOUNDARY_BYTES = 64, 2**16, 200
NO_FORM = "This is no form with files in its field “files”; choose the file again."


class UploadError(Exception):
    """An upload is not taken; the message is for its sender.

    Attributes:
        status: Of the answer, as HTTP has them.
        reason: For metrics.
    """

    def __init__(self, status: int, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.status, self.reason = status, reason


class UploadForm:
    """Parses a multipart form: files wait to be written, other fields are counted and dropped."""

    def __init__(self, content_type: bytes, received: dict[str, int]) -> None:
        """Begin to parse.

        Args:
            content_type: The header of the request.
            received: Takes the bytes of each file by the name it was sent with.

        Raises:
            UploadError: It is no form.
        """
        self.is_whole, self.waiting_bytes = False, 0
        self._received = received
        self._waiting: list[str | bytes] = []  # the name of a file, then its bytes
        self._file: str | None = None  # its name as it was sent; None: another field
        self._files, self._field_bytes = 0, 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._on_part,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_end": self._on_end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises:
            UploadError: They are no form, or it holds too much.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise UploadError(400, NO_FORM, "form") from error

    def write_to(self, upload: Upload) -> None:
        """Write what waits.

        Raises:
            DiskFullError: There is no room for it.
        """
        waiting, self._waiting, self.waiting_bytes = self._waiting, [], 0
        for is_name, group in groupby(waiting, key=lambda item: isinstance(item, str)):
            if is_name:
                for name in group:
                    upload.begin(str(name))
            else:
                upload.write(b"".join(data for data in group if isinstance(data, bytes)))

    def _on_part(self) -> None:
        self._header, self._value, self._disposition = b"", b"", b""

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        is_files, sent = options.get(b"name") == b"files", options.get(b"filename")
        if (sent is not None) != is_files or b"name" not in options:
            raise UploadError(400, NO_FORM, "form")
        self._file = None if sent is None else _decoded(sent)
        if self._file is not None:
            self._files += 1
            if self._files > MOST_FILES:
                raise UploadError(413, f"At most {MOST_FILES} files are taken at once.", "size")
            self._waiting.append(safe_name(self._file))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._field_bytes += end - start
            if self._field_bytes > MOST_FIELD_BYTES:
                raise UploadError(413, "A field of this form is too long; send files only.", "size")
        else:
            self._waiting.append(data[start:end])
            self.waiting_bytes += end - start
            self._received[self._file] = self._received.get(self._file, 0) + end - start

    def _on_end(self) -> None:
        self.is_whole = True


def _boundary(content_type: bytes) -> bytes:
    """Return what separates the parts of the form that a request is.

    Raises:
        UploadError: It is no form.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= MOST_BOUNDARY_BYTES:
        raise UploadError(400, NO_FORM, "form")
    return boundary


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
