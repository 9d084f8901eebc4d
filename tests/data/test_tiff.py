"""TIFF as other programs write it: read as Pillow reads it or as it was before writing, or refused by what it is."""

import json
import logging
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from custom.data.tiff import read_tiff, read_tiff_shape
from custom.data.volumes import read_shape, read_volume
from custom.errors import DataError

TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def random(dtype="u1", shape=(5, 40, 33)):
    """Values over the whole range of the type."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.random.default_rng(1).normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return np.random.default_rng(1).integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.fixture
def write(tmp_path):
    def written(array, **options):
        tifffile.imwrite(tmp_path / "a.tif", array, **{"photometric": "minisblack", **options})
        return tmp_path / "a.tif"

    return written


def pillow(path):
    with Image.open(path) as image:
        pages = []
        for k in range(image.n_frames):
            image.seek(k)
            pages.append(np.array(image))
    return np.stack(pages)


def refusal(path):
    """The reason, which must be one line and the same from the header alone where that shows it."""
    with pytest.raises(DataError) as error:
        read_tiff(path)
    text = str(error.value)
    assert text.startswith(f"{path}: found ") and ", expected " in text and "\n" not in text
    return text


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type(write, dtype, byteorder):
    array = random(dtype)
    path = write(array, byteorder=byteorder, compression="lzw")
    read = read_tiff(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == dtype and read.dtype.isnative
    assert read_tiff_shape(path) == ((5, 40, 33), np.dtype(dtype))


OPTIONS = [
    {"tile": (16, 16)},
    {"tile": (16, 32), "compression": "zlib"},
    {"rowsperstrip": 7},
    {"rowsperstrip": 7, "compression": "packbits"},
    {"compression": "lzw", "predictor": True},
    {"compression": "zlib", "predictor": True, "byteorder": ">"},
    {"compression": "zstd"},
    {"compression": "lzma"},
    {"bigtiff": True},
    {"bigtiff": True, "byteorder": ">"},
    {"truncate": True},
    {"imagej": True, "metadata": {"axes": "ZYX"}},
    {"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True},
    {"ome": True, "metadata": {"axes": "ZYX"}},
    {"ome": True, "metadata": {"axes": "ZYX"}, "tile": (16, 16), "bigtiff": True},
    {"metadata": None},
    {"description": "tibia, 20 um"},
]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_arrangement(write, options, dtype):
    array = random(dtype)
    path = write(array, **options)
    np.testing.assert_array_equal(read_tiff(path), array)
    assert read_shape(path) == (array.shape, array.dtype)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_one_bit_is_0_and_1(tmp_path, compression):
    mask = random() > 128
    pages = [Image.fromarray(page) for page in mask]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    read = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(read, mask)
    assert read.dtype == np.uint8 and read_tiff_shape(tmp_path / "a.tif")[1] == np.uint8


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
def test_fax_is_refused_since_half_of_it_decodes_to_a_whole_page(tmp_path, compression):
    Image.fromarray(random()[0] > 128).save(tmp_path / "a.tif", compression=compression)
    assert_matches("compression CCITT.* unnoticed", refusal(tmp_path / "a.tif"))


def test_jpeg_that_ends_early(write):
    path = write(np.full((5, 40, 33), 77, np.uint8), metadata=None, compression="jpeg")
    np.testing.assert_array_equal(read_tiff(path), 77)
    with tifffile.TiffFile(path) as file:
        count = file.pages[1].databytecounts[0]
    overwrite(path, entry(path, 1, 279) + 8, "<I", count - 20)
    assert "JPEG data in page 2 that end early" in refusal(path)


@pytest.mark.parametrize("compression", ["jpeg2000", "png", "jpegxl", "lerc", "zstd"])
def test_other_lossless_compressions(write, compression):
    path = write(random(), metadata=None, compression=compression)
    np.testing.assert_array_equal(read_tiff(path), random())
    with tifffile.TiffFile(path) as file:
        count = file.pages[1].databytecounts[0]
    overwrite(path, entry(path, 1, 279) + 8, "<I", count // 2)
    assert "page 2 does not decode" in refusal(path)


@pytest.mark.parametrize("array", [random() > 128, random(), random() // 128], ids=["1 bit", "8 bits", "labels"])
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_white_as_0_is_inverted_as_pillow_does_it(write, array, compression):
    if array.dtype == bool and compression:
        compression = "packbits"  # which alone tifffile writes
    path = write(array, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read_tiff(path), pillow(path))
    np.testing.assert_array_equal(read_tiff(path), 1 - array if array.dtype == bool else 255 - array)


@pytest.mark.parametrize("dtype", ["u2", "i1", "f4"])
def test_white_as_0_of_other_types_is_refused(write, dtype):
    assert "MinIsWhite" in refusal(write(random(dtype), photometric="miniswhite"))


def test_planes_and_stacks_of_one(write):
    np.testing.assert_array_equal(read_tiff(write(random()[0])), random()[:1])
    np.testing.assert_array_equal(read_tiff(write(random()[:1])), random()[:1])
    np.testing.assert_array_equal(read_tiff(write(random()[None, :, :, :, None])), random())
    assert read_volume(write(random()[0])).array.shape == (1, 40, 33)


def test_pages_written_one_by_one_are_one_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in random():
            file.write(page, photometric="minisblack", compression="lzw")
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif"), random())
    assert len(tifffile.TiffFile(tmp_path / "a.tif").series) == 5  # tifffile itself would return the first


@pytest.mark.parametrize("ome", [False, True])
def test_levels_of_a_pyramid_and_thumbnails_are_no_slices(tmp_path, ome):
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=ome) as file:
        common = {"photometric": "minisblack", "tile": (16, 16), "metadata": {"axes": "ZYX"}}
        file.write(random(), subifds=1, **common)
        file.write(random()[:, ::2, ::2], subfiletype=1, **common)
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif"), random())
    with tifffile.TiffWriter(tmp_path / "b.tif") as file:
        for page in random():
            file.write(page, photometric="minisblack", metadata=None)
            file.write(page[::4, ::4], photometric="minisblack", metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_tiff(tmp_path / "b.tif"), random())


def test_another_order_of_slices_in_ome_xml_is_refused(write):
    path = write(random(), ome=True, metadata={"axes": "ZYX"})
    xml = tifffile.tiffcomment(path)
    assert '<TiffData IFD="0" PlaneCount="5"/>' in xml
    order = [3, 0, 4, 1, 2]
    placed = "".join(f'<TiffData IFD="{k}" FirstZ="{z}" PlaneCount="1"/>' for z, k in enumerate(order))
    tifffile.tiffcomment(path, xml.replace('<TiffData IFD="0" PlaneCount="5"/>', placed).encode())
    assert "another order" in refusal(path)
    tifffile.tiffcomment(path, xml.replace('PlaneCount="5"', 'PlaneCount="4"').encode())
    assert "OME-TIFF" in refusal(path)


STACK = random("u1", (2, 6, 16, 20))


@pytest.mark.parametrize(
    ("array", "options", "reason"),
    [
        (STACK, {"imagej": True, "metadata": {"axes": "ZCYX"}}, "ImageJ hyperstack of 6 channels, 2 slices and 1 fram"),
        (STACK, {"imagej": True, "metadata": {"axes": "TZYX"}}, "ImageJ hyperstack of 1 channels, 6 slices and 2 fram"),
        (STACK[0], {"imagej": True, "metadata": {"axes": "CYX"}}, "6 channels"),
        (STACK[0], {"imagej": True, "metadata": {"axes": "TYX"}}, "6 frames"),
        (STACK, {"imagej": True, "metadata": {"axes": "ZCYX"}, "truncate": True}, "ImageJ hyperstack of 6 channels"),
        (STACK, {"ome": True, "metadata": {"axes": "CZYX"}}, r"OME-TIFF .*channel 2, depth 6"),
        (STACK, {"ome": True, "metadata": {"axes": "TZYX"}}, r"OME-TIFF .*time 2, depth 6"),
        (STACK, {}, r"tifffile file with other axes .*2.* 6"),
        (STACK[0], {"metadata": {"axes": "CYX"}}, "channel 6"),
        (STACK[0], {"metadata": {"axes": "TYX"}}, "time 6"),
        (random("u1", (5, 16, 20, 3)), {"photometric": "rgb"}, "RGB pixels, with 3 samples per pixel"),
        (random("u1", (5, 3, 16, 20)), {"photometric": "rgb", "planarconfig": "separate"}, "RGB .*3 samples"),
        (random("u1", (5, 16, 20, 2)), {"planarconfig": "contig"}, "2 samples per pixel"),
        (random("u1", (5, 2, 16, 20)), {"planarconfig": "separate"}, "2 samples per pixel"),
        (STACK[0], {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "palette"),
        (STACK[0], {"volumetric": True, "tile": (16, 16, 16)}, "pages of depth 6, expected a page for each slice"),
        (STACK[0], {"extratags": [(274, 3, 1, 6, True)]}, "Orientation 6"),
        (STACK[0], {"extratags": [(274, 3, 1, 4, True)]}, "Orientation 4"),
        (STACK[0].astype("c8"), {}, "COMPLEXIEEEFP"),
        (STACK[0], {"compression": "packbits", "predictor": True}, "Predictor 2 for uint8 with PACKBITS"),
        (STACK[0], {"imagej": True, "metadata": {"axes": "ZYX"}, "photometric": "miniswhite"}, "ImageJ's inverted"),
    ],
    ids=range(21),
)
def test_what_is_not_one_grey_stack_is_refused_by_what_it_is(write, array, options, reason):
    path = write(array, **options)
    assert_matches(reason, refusal(path))
    with pytest.raises(DataError, match=reason):
        read_tiff_shape(path)


def assert_matches(pattern, text):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (
            random("u1", (40, 32)),
            r"different \(rows, columns, bits, type\): \[\(40, 32, 8, 'uint8'\), \(40, 33",
        ),
        (random("u2", (40, 33)), r"different .*'uint16'"),
        (random("u1", (5, 40, 33)), "2 stacks in one tifffile file"),
        (random("u1", (40, 33, 3)), "RGB"),
    ],
)
def test_different_images_in_one_file(tmp_path, second, reason):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(random(), photometric="minisblack")
        file.write(second, photometric="rgb" if second.shape[-1] == 3 else "minisblack")
    assert_matches(reason, refusal(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("ImageJ=1.53t\nimages=9\nslices=9\n", "5 pages, though the ImageJ description says 9"),
        ("ImageJ=1.53t\nimages=9\n", "5 pages, though the ImageJ description says 9"),
        ("ImageJ=1.53t\nimages=10\nslices=5\n", "5 slices and 1 frames for 10 images"),
        ("ImageJ=1.53t\nimages=5\nslices=x\n", "x slices and 1 frames for 5 images"),
        (json.dumps({"shape": [9, 40, 33]}), "pages, though the tifffile description says 9"),
        (json.dumps({"shape": [9, 40, 33], "truncated": True}), "pages, though the tifffile description says 9"),
        (json.dumps({"shape": [5, 33, 40]}), "tifffile description"),
        ('{"shape": [5, 40, 33', "tifffile description"),
    ],
)
def test_description_of_other_pages(write, description, reason):
    path = write(random(), metadata=None, description=description)
    assert_matches(reason, refusal(path))


def test_imagej_images_without_slices(write):
    path = write(random(), metadata=None, description="ImageJ=1.53t\nimages=5\n")
    np.testing.assert_array_equal(read_tiff(path), random())
    # One directory, and the pixels of all five behind it: as ImageJ reads it, whatever the number is called.
    path = write(random()[0], metadata=None, description="ImageJ=1.53t\nimages=5\n")
    with path.open("ab") as file:
        file.write(random()[1:].tobytes())
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].dataoffsets[0] + 5 * 40 * 33 == path.stat().st_size
    np.testing.assert_array_equal(read_tiff(path), random())


@pytest.mark.parametrize("options", [o for o in OPTIONS if "imagej" not in o or "truncate" not in o], ids=str)
def test_file_cut_anywhere(write, options):
    path = write(random(), **options)
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 23).astype(int):
        path.write_bytes(whole[:length])
        try:
            read = read_tiff(path)
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            np.testing.assert_array_equal(read, random())  # what is lost are no pixels


def test_single_directory_cut_off(write):
    for options in ({"imagej": True, "metadata": {"axes": "ZYX"}}, {}):
        path = write(random(), truncate=True, **options)
        path.write_bytes(path.read_bytes()[:-1])
        assert "ends before its pages do" in refusal(path)


def directories(path):
    with tifffile.TiffFile(path) as file:
        return [page.offset for page in file.pages]


def overwrite(path, offset, layout, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)


def entry(path, page, code):
    """Byte at which the entry of a tag begins, of 12 bytes: code, type, count, value."""
    with tifffile.TiffFile(path) as file:
        return file.pages[page].tags[code].offset


@pytest.mark.parametrize("target", [0, 2, 3])
def test_directories_in_a_loop(write, target):
    path = write(random(), metadata=None)
    offsets = directories(path)
    with tifffile.TiffFile(path) as file:
        following = offsets[3] + 2 + 12 * len(file.pages[3].tags)
    overwrite(path, following, "<I", offsets[target])
    assert "a loop after page 4" in refusal(path)
    overwrite(path, following, "<I", 10**9)
    assert "ends before its pages do (directory of page 5" in refusal(path)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_strips_that_are_absent_or_too_short(write, compression):
    path = write(random(), metadata=None, compression=compression)
    whole = path.read_bytes()
    overwrite(path, entry(path, 2, 279) + 8, "<I", 0)  # bytes of the strip; tifffile reads zeros
    assert not tifffile.imread(path, key=2).any() or compression is None
    assert "without data in page 3" in refusal(path)
    path.write_bytes(whole)
    overwrite(path, entry(path, 2, 279) + 8, "<I", 700)
    assert_matches("too short|does not decode", refusal(path))
    path.write_bytes(whole)
    overwrite(path, entry(path, 2, 273) + 8, "<I", len(whole) - 100)
    assert "ends before its pages do" in refusal(path)


def test_directories_that_overlap(write):
    # Behind the last page a directory whose own entries, from the second on, are a page once more.
    path = write(random(), metadata=None)
    content, last = bytearray(path.read_bytes()), directories(path)[-1]
    number = struct.unpack_from("<H", content, last)[0]
    start, entries = len(content), content[last + 2 : last + 2 + 12 * number]
    inside = start + 2 + 10  # the upper half of the first entry's value is the number there
    content += struct.pack("<HHHII", number + 1, 65000, 4, 1, (number + 1) << 16) + entries
    content += struct.pack("<IQI", inside, 0, 0)
    struct.pack_into("<I", content, last + 2 + 12 * number, start)
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 7
    assert "page directories that overlap" in refusal(path)


def test_more_rows_than_strips(write):
    path = write(random(), metadata=None, rowsperstrip=10)
    overwrite(path, entry(path, 1, 257) + 8, "<H", 45)
    assert "fewer strips in page 2 than its 5" in refusal(path)


def test_tag_that_cannot_be_read(write):
    path = write(random("u2"), metadata=None, compression="lzw")
    overwrite(path, entry(path, 1, 258) + 2, "<H", 99)  # without BitsPerSample a page has 1 bit by default
    assert "unreadable tag BitsPerSample in page 2" in refusal(path)
    path = write(random(), metadata=None)
    for code, reason in ((279, "no tag StripByteCounts in page 2"), (257, "no tag ImageLength in page 2")):
        whole = path.read_bytes()
        overwrite(path, entry(path, 1, code), "<H", 65000)
        assert reason in refusal(path)
        path.write_bytes(whole)
    for kind in (6, 16):  # signed, or of 8 bytes in a TIFF that is no BigTIFF: readers make different numbers of them
        whole = path.read_bytes()
        overwrite(path, entry(path, 1, 278) + 2, "<H", kind)
        assert f"the tag RowsPerStrip of type {kind} in page 2" in refusal(path)
        path.write_bytes(whole)
    overwrite(path, entry(path, 1, 278) + 4, "<I", 3)
    assert "3 values of the tag RowsPerStrip in page 2" in refusal(path)
    path = write(random("u2"), metadata=None)
    overwrite(path, entry(path, 1, 258), "<H", 254)  # the code itself
    assert_matches("twice|too long", refusal(path))


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (258, 6, "6 bits"),
        (258, 4, "too long for its size and type uint8"),
        (257, 30, "too long for its size"),
        (259, 4, "compression CCITTFAX4"),
        (284, 0, "PlanarConfiguration 0"),
    ],
)
def test_tag_that_does_not_fit_the_pixels(tmp_path, tag, value, reason):
    path = tmp_path / "a.tif"
    Image.fromarray(random()[0]).save(path)
    overwrite(path, entry(path, 0, tag) + 8, "<H", value)
    assert reason in refusal(path)


def test_size_that_the_data_cannot_have_takes_no_memory(write):
    path = write(np.zeros((2, 40, 33), np.uint8), metadata=None, compression="lzw")
    whole = path.read_bytes()
    overwrite(path, entry(path, 0, 257) + 2, "<HII", 4, 1, 2**32 - 1)
    assert "fewer strips in page 1" in refusal(path) or "too short" in refusal(path)
    path.write_bytes(whole)
    for page in (0, 1):
        overwrite(path, entry(path, page, 256) + 2, "<HII", 4, 1, 2**31 - 1)
    assert "too short" in refusal(path)


def test_damaged_deflate_is_noticed_by_its_checksum(write):
    path = write(random() // 64, metadata=None, compression="zlib")
    with tifffile.TiffFile(path) as file:
        middle = file.pages[3].dataoffsets[0] + file.pages[3].databytecounts[0] // 2
    overwrite(path, middle, "<B", path.read_bytes()[middle] ^ 1)
    assert "page 4 does not decode: its ADOBE_DEFLATE data are damaged" in refusal(path)


def test_nothing_is_logged_and_the_log_works_again(write, caplog):
    path = write(random(), metadata=None)
    overwrite(path, entry(path, 1, 282) + 2, "<H", 99)  # an unreadable XResolution, on which nothing depends
    with caplog.at_level(logging.DEBUG):
        np.testing.assert_array_equal(read_tiff(path), random())
        assert not caplog.records
        logging.getLogger("tifffile").error("from elsewhere")
    assert len(caplog.records) == 1


def test_other_formats_that_tifffile_opens(tmp_path):
    for content in (b"IIU\0" + bytes(99), b"EP*\0" + bytes(99), b"II*\0", b"", b"PK\3\4" + bytes(99)):
        (tmp_path / "a.tif").write_bytes(content)
        refusal(tmp_path / "a.tif")


def test_microscope_formats_are_named(write):
    path = write(random(), metadata=None, extratags=[(33445, 4, 1, 2, True)])  # square roots, says Molecular Dynamics
    assert "microscopy format mdgel" in refusal(path)


def test_without_a_decoder(write):
    path = write(random(), compression="lzw")
    overwrite(path, entry(path, 0, 259) + 8, "<H", 12345)
    assert "the compression 12345, which is not read" in refusal(path)
