"""TIFF -> decoded picture: the full page of a pyramid, and a true sentence for kinds that are not read."""

from dataclasses import replace

from PIL import TiffImagePlugin

from marigold_demo.io import tiff_tags as tags
from marigold_demo.io.file_parts import check_size, damaged, unsupported
from marigold_demo.io.pixels import Picture
from marigold_demo.io.tiff_samples import is_misread, read_samples
from marigold_demo.io.tiff_tags import Page, Tiff

_PACKINGS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001)  # that libtiff unpacks here
_PIXEL_TAGS = (
    tags.WIDTH, tags.HEIGHT, tags.BITS, tags.COMPRESSION, tags.PHOTOMETRIC, tags.FILL_ORDER, tags.STRIPS,
    tags.SAMPLES, tags.ROWS_PER_STRIP, tags.STRIP_BYTES, tags.PLANAR, 292, 293, tags.PREDICTOR, 320,
    tags.TILE_WIDTH, tags.TILE_HEIGHT, tags.TILES, tags.TILE_BYTES, 332, 333, 334, 336, tags.EXTRA_SAMPLES,
    tags.SAMPLE_FORMAT, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, tags.PROFILE,
)  # fmt: skip
_OTHER_PACKINGS = {
    32766: "NeXT", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34712: "JPEG 2000", 34713: "Nikon", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip


def decode(tiff: Tiff) -> Picture:
    """Decode the first page that is not a reduced copy of another one.

    Raises:
        PhotoError: The kind is not supported, the size is out of bounds, or the tags are damaged.
    """
    page, notes = _chosen(tiff)
    if not all(page.size):
        raise damaged()
    check_size(page.size)
    packing = page.number(tags.COMPRESSION, 1)
    if packing not in _PACKINGS:
        raise unsupported(f"a TIFF with {_OTHER_PACKINGS.get(packing, 'an unusual')} compression")
    picture = read_samples(page) if is_misread(page) else None
    if picture is None:
        picture = _by_pillow(page)
    return replace(
        picture,
        orientation=page.number(tags.ORIENTATION, 1),
        focal_mm=tags.focal_length(page),
        notes=notes + picture.notes,
    )


def _by_pillow(page: Page) -> Picture:
    """Show Pillow the tags that pixels depend on: any other one that is odd would make it refuse the file."""
    directory = tags.copied(page, _PIXEL_TAGS)
    try:
        image = TiffImagePlugin.TiffImageFile(tags.with_directory(page.tiff, directory))
    except SyntaxError as error:  # its kind is not in Pillow's table
        place = page.number(tags.STRIPS) or page.number(tags.TILES)
        if not 0 < place < page.tiff.size_bytes:
            raise
        picture = read_samples(page)
        if picture is None:
            raise unsupported(f"a TIFF of an unusual kind ({_kind_of(page)})") from error
        return picture
    image.load()
    top = 2**page.bits - 1 if image.mode.startswith("I;16") and 8 < page.bits < 16 else None
    return Picture(image, top=top, white_is_zero=image.mode == "F" and page.number(tags.PHOTOMETRIC) == 0)


def _chosen(tiff: Tiff) -> tuple[Page, tuple[str, ...]]:
    """Return the first page that is a picture of its own, and a note where there are more of them."""
    first, chosen, count, seen = None, None, 0, 0
    for page in tiff.pages():
        first, seen = first or page, seen + 1
        if page.is_reduced or not all(page.size):
            chosen = chosen or _full_sub_page(page)
        else:
            count += 1
            chosen = page if count == 1 else chosen
    if first is None:
        raise damaged()
    told = f"more than {tags.MAX_PAGES}" if seen == tags.MAX_PAGES else str(count)
    notes = (f"This is the first of {told} pages; the others are not used.",) if count > 1 else ()
    return chosen or first, notes


def _full_sub_page(page: Page) -> Page | None:
    return next((sub for sub in page.tiff.sub_pages(page) if all(sub.size) and not sub.is_reduced), None)


def _kind_of(page: Page) -> str:
    """Return in words what a page holds."""
    number = {1: "unsigned", 2: "signed", 3: "floating point"}.get(
        page.number(tags.SAMPLE_FORMAT, 1), "unusual"
    )
    colors = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
    color = colors.get(page.number(tags.PHOTOMETRIC), "unusual colors")
    extra = " with further channels" if page.values(tags.EXTRA_SAMPLES) else ""
    return f"{page.bits or 'mixed'}-bit {number} numbers, {color}{extra}"
