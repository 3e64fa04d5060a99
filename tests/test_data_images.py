"Images of every mode and orientation, and files that are refused"

import contextlib
import io
import os
import resource
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import older
from PIL import Image, ImageOps

from simpsons_cnn.data import images
from simpsons_cnn.data.images import _FORMATS, open_for_decoding, open_picture, read_rgb, to_rgb
from simpsons_cnn.data.preprocess import Preprocess

RAMP = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(48, 0)
SCENE = Image.fromarray(np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], -1))


def as_file(im, format="png", **kwargs):
    f = io.BytesIO()
    im.save(f, format, **kwargs)
    f.seek(0)
    return f


def png_chunk(kind, data):
    crc = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + crc


def png(width, height, bits=8, kind=2, chunks=b""):
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + chunks


def png_header(width, height):
    return png(width, height) + bytes(4) + b"IDAT" + bytes(4)


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    f = as_file(SCENE, kind, exif=exif)
    upright = read_rgb(f)
    assert np.array_equal(upright, ImageOps.exif_transpose(Image.open(f)))
    assert np.array_equal(to_rgb(upright), upright)  # once is enough


def test_values_above_white_are_cut():
    x = np.array([[-5, 0, 2**15, 2**16 - 1, 2**30]], dtype=np.int32)
    rgb = np.asarray(read_rgb(as_file(Image.fromarray(x), "tiff")))
    assert list(rgb[0, :, 0]) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100, 300], [0, 100, 255]),
        ([-1, 0.5, 1], [0, 0, 1]),
        ([np.nan, 0.5, 1], [0, 128, 255]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_float_tiff(values, expected):
    f = as_file(Image.fromarray(np.array([values], dtype=np.float32)), "tiff")
    assert list(np.asarray(read_rgb(f))[0, :, 0]) == expected


@pytest.mark.parametrize("bits, pixels", [(1, 0b10), (2, 0b1000), (4, 0b1001_0000)])
def test_transparent_value_of_few_bits(bits, pixels):
    "Two grey pixels, the first in the transparent value"
    first = {1: 1, 2: 2, 4: 9}[bits]
    row = {1: 0b1000_0000, 2: 0b1000_0000, 4: 0b1001_0000}[bits]
    data = png_chunk(b"tRNS", first.to_bytes(2, "big"))
    data += png_chunk(b"IDAT", zlib.compress(bytes([0, row]))) + png_chunk(b"IEND", b"")
    rgb = read_rgb(io.BytesIO(png(2, 1, bits, 0, data)))
    assert [rgb.getpixel((i, 0)) for i in (0, 1)] == [(255,) * 3, (0,) * 3]


@pytest.mark.parametrize("bits, value", [(1, 1), (2, 2), (4, 9), (8, 9)])
def test_a_callers_image_keeps_its_notes_and_gives_one_answer(bits, value):
    "Opened, asked twice, with pixels that were read before, or a copy: as the file"
    row = value << (16 - bits)  # the transparent pixel, and a black one
    data = png_chunk(b"tRNS", value.to_bytes(2, "big"))
    data += png_chunk(b"IDAT", zlib.compress(b"\0" + row.to_bytes(2, "big")))
    file = png(2, 1, bits, 0, data + png_chunk(b"IEND", b""))
    opened, loaded = [Image.open(io.BytesIO(file)) for _ in range(2)]
    loaded.load()
    info = dict(opened.info)
    for im in (opened, opened, loaded, loaded.copy()):
        assert [to_rgb(im).getpixel((i, 0)) for i in (0, 1)] == [(255,) * 3, (0,) * 3]
        assert im.info == info


def test_transparent_value_of_16_bits():
    data = png_chunk(b"tRNS", (1000).to_bytes(2, "big"))
    row = b"\0" + (1000).to_bytes(2, "big") + (2560).to_bytes(2, "big")
    data += png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    rgb = read_rgb(io.BytesIO(png(2, 1, 16, 0, data)))
    assert [rgb.getpixel((i, 0)) for i in (0, 1)] == [(255,) * 3, (10,) * 3]


@pytest.mark.parametrize("mode", ["La", "LA", "RGBa", "PA"])
def test_alpha_modes(mode):
    assert to_rgb(Image.new(mode, (4, 4))).getpixel((0, 0)) == (255,) * 3


@pytest.mark.skipif(older("pillow", "13"), reason="Pillow 12 refuses this kind of TIFF")
def test_premultiplied_grey_tiff():
    def entry(value):  # the tag ExtraSamples
        head = (338).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
        return head + bytes([value, 0])

    data = as_file(Image.new("LA", (16, 16), (100, 200)), "tiff").read()
    assert entry(2) in data
    assert read_rgb(io.BytesIO(data.replace(entry(2), entry(1)))).mode == "RGB"


def test_other_formats(tmp_path):
    path = tmp_path / "program.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop")
    with pytest.raises(ValueError, match=f"a picture must be one of {', '.join(_FORMATS)}"):
        open_picture(path)


def test_what_is_no_file(tmp_path):
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("zero.png", "pipe.png"):
        with pytest.raises(ValueError, match="is a pipe or a device; expected a picture"):
            open_picture(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder; expected a picture"):
        open_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match="No picture at"):
        open_picture(tmp_path / "nobody.png")


def test_huge_file(tmp_path):
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 2**40)
    with pytest.raises(ValueError, match="has 1,099,511,627,776 bytes; .* at most 268,435,456"):
        open_picture(tmp_path / "huge.png")


def test_many_scans():
    big = Image.effect_noise((640, 432), 60)
    jpeg = as_file(big, "jpeg", progressive=True).read()
    scan = jpeg.rindex(b"\xff\xda")
    assert read_rgb(io.BytesIO(jpeg)).size == big.size
    with pytest.raises(ValueError, match="at most 100 scans, got 1,"):
        open_picture(io.BytesIO(jpeg[:scan] + jpeg[scan:-2] * 1000 + jpeg[-2:]))


@pytest.mark.parametrize("side", [10_000, 30_000])  # Pillow alone warns, then refuses
def test_too_many_pixels(side):
    with pytest.raises(ValueError, match=f"at most 89,478,485 pixels, got {side:,}×{side:,}"):
        read_rgb(io.BytesIO(png_header(side, side)))
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert open_picture(io.BytesIO(png_header(9000, 9000))).size == (9000, 9000)


@pytest.mark.parametrize("size", [(1, 4_000_000), (4_000_000, 1)])
def test_thin_image_takes_little_memory(tmp_path, size):
    Image.new("L", size).save(tmp_path / "thin.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="at most 262,144 pixels wide and high"):
        Preprocess(96).decode(tmp_path / "thin.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def png_with_text(where: str, *chunks) -> io.BytesIO:
    "A PNG with chunks (kind, content) 'before' its pixels or 'behind' them"
    data = as_file(SCENE, "png").getvalue()
    at = data.index(b"IDAT") - 4 if where == "before" else data.index(b"IEND") - 4
    texts = b"".join(
        len(content).to_bytes(4, "big")
        + kind
        + content
        + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )
    return io.BytesIO(data[:at] + texts + data[at:])


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 + 1)))],
        [(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2**20 + 1)))],
        [(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 + 1)))],
        [(b"tEXt", b"a%d\0" % i + b"x" * (2**20 - 9)) for i in range(65)],
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt"],
)
def test_a_png_with_long_texts_is_refused_in_our_words(where, chunks):
    picture = png_with_text(where, *chunks)
    with pytest.raises(ValueError, match="at most 1 MiB of text in one piece .* without its texts"):
        read_rgb(picture)
    assert np.array_equal(read_rgb(png_with_text(where, (b"tEXt", b"a\0short"))), SCENE)


def test_damaged_exif_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in (b"II*\0" + b"\xff" * 9, b"II*", b"nonsense"):
            assert np.array_equal(read_rgb(as_file(SCENE, exif=exif)), SCENE)


@pytest.mark.skipif(older("pillow", "13"), reason="Pillow 12 refuses such a TIFF")
def test_tiff_description_beyond_its_end():
    data = as_file(SCENE, "tiff", description="x" * 99).read()
    tag = b"\x0e\x01\x02\0"
    short, long = ((n).to_bytes(4, "little") for n in (100, 10**6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_rgb(io.BytesIO(data.replace(tag + short, tag + long))), SCENE)


def test_damaged_tiffs_write_no_lines_of_their_own(capfd):
    for compression in ("tiff_adobe_deflate", "tiff_lzw", "jpeg", "packbits", "tiff_ccitt"):
        im = SCENE.convert("1") if compression == "tiff_ccitt" else SCENE
        data = bytearray(as_file(im, "tiff", compression=compression).getvalue())
        for start in (8, 40, 200):
            data[start : start + 20] = bytes(20)
            with contextlib.suppress(Exception):
                read_rgb(io.BytesIO(data))
    assert capfd.readouterr().err == ""


def test_nothing_is_logged_without_a_file_name():
    "Pillow's log goes to the error stream where no program has set up one"
    data = as_file(SCENE, "tiff").read()
    entry = struct.pack("<HHIHH", 277, 3, 1, 3, 0)  # three samples per pixel
    assert entry in data
    code = "import io, sys; from simpsons_cnn.data.images import read_rgb\n"
    code += "try: read_rgb(io.BytesIO(sys.stdin.buffer.read()))\nexcept ValueError: pass"
    harmed = data.replace(entry, struct.pack("<HHIHH", 277, 3, 1, 60000, 0))
    done = subprocess.run([sys.executable, "-c", code], input=harmed, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("width, length", [(2**18, 2**12), (2**16, 2**16), (2**20, 2**20)])
def test_tiff_with_huge_tiles(tmp_path, width, length):
    "1 kB that claims 64×64 pixels, in one tile of a gigabyte and more"
    data = zlib.compress(bytes(10**6))
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: length}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "tiles.tif"
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, 10) + entries + bytes(4) + data)
    with pytest.raises(ValueError, match="a TIFF's tiles must have at most 89,478,485 pixels"):
        read_rgb(path)


def jpeg_variants():
    "JPEGs of many kinds, whole and damaged, by name"
    rng = np.random.default_rng(0)
    found = {}
    for i in range(24):
        h, w = rng.integers(1, 70, 2)
        image = Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        options = dict(quality=int(rng.integers(5, 100)), subsampling=i % 3, progressive=i % 2 == 0)
        found[f"noise {i}"] = as_file(image, "jpeg", **options).getvalue()
    found |= {mode: as_file(SCENE.convert(mode), "jpeg").getvalue() for mode in ("L", "CMYK")}
    whole = as_file(SCENE.resize((320, 240)), "jpeg").getvalue()
    found["needless bytes"] = whole[:-2] + bytes(range(15)) + whole[-2:]
    found["bytes after the end"] = whole + bytes(1000)
    found["cut"] = whole[: len(whole) * 2 // 3]
    found["broken"] = whole[: len(whole) // 2] + b"\xff\xd3\x12" + whole[len(whole) // 2 :]
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"  # its colours are RGB
    found["Adobe"] = whole[:2] + adobe + whole[2:]
    exif = Image.Exif()
    exif[0x0112] = 6
    found["sideways"] = as_file(SCENE, "jpeg", exif=exif).getvalue()
    return found


def answers(files):
    "The pixels of each file, or the error"
    found = {}
    for name, data in files.items():
        try:
            found[name] = Preprocess(64).decode(io.BytesIO(data)).tobytes()
        except Exception as e:
            found[name] = repr(e)
    return found


def use_decoder(monkeypatch, module):
    "Have `import simplejpeg` find a module, or `None`: nothing"
    monkeypatch.setitem(sys.modules, "simplejpeg", module)
    images._simplejpeg.cache_clear()


@pytest.fixture
def fresh_decoder():
    yield
    images._simplejpeg.cache_clear()


def test_simplejpeg_changes_no_answer(monkeypatch, fresh_decoder, capfd):
    simplejpeg = pytest.importorskip("simplejpeg")
    use_decoder(monkeypatch, None)
    files = jpeg_variants()
    expected = answers(files)
    use_decoder(monkeypatch, simplejpeg)
    assert images._simplejpeg() is simplejpeg.decode_jpeg
    assert answers(files) == expected
    assert capfd.readouterr().err == ""


def test_decoder_of_jpegs_is_used_for_whole_plain_files(monkeypatch, fresh_decoder):
    calls = []

    def decode_jpeg(data):
        calls.append(len(data))
        return np.array(Image.open(io.BytesIO(data)))

    use_decoder(monkeypatch, SimpleNamespace(decode_jpeg=decode_jpeg))
    images._simplejpeg()
    calls.clear()
    files = jpeg_variants()
    whole = files["bytes after the end"]
    Preprocess(64).decode(io.BytesIO(whole))
    assert calls == [len(whole)]
    Preprocess(64).decode(io.BytesIO(whole), draft=True)  # at a fraction of its size
    changed = Image.open(io.BytesIO(whole))
    changed.paste("red", (0, 0, *changed.size))
    assert Preprocess(64).decode(changed)[0, 0].tolist() == [255, 0, 0]
    for name in ("L", "CMYK", "sideways"):
        Preprocess(64).decode(io.BytesIO(files[name]))
    assert calls == [len(whole)]


@pytest.mark.parametrize("fault", ["other bytes", "error"])
def test_decoder_of_jpegs_that_fails_is_not_used(monkeypatch, fresh_decoder, fault):
    use_decoder(monkeypatch, None)
    files = jpeg_variants()
    expected = answers(files)

    def decode_jpeg(data):
        pixels = np.array(Image.open(io.BytesIO(data)))
        if fault == "error" and calls:  # after the first comparison
            raise ValueError("Corrupt JPEG data")
        calls.append(1)
        return pixels if fault == "error" else pixels ^ 1

    calls = []
    use_decoder(monkeypatch, SimpleNamespace(decode_jpeg=decode_jpeg))
    assert answers(files) == expected
    assert len(calls) == 1


def test_two_large_images_open_at_once_in_one_thread():
    "They wait for those of other threads only"
    image = Image.new("1", (2**13, 2**11 + 1))

    def open_both():
        with open_for_decoding(image) as one, open_for_decoding(image) as other:
            return one is other

    thread = threading.Thread(target=lambda: done.append(open_both()), daemon=True)
    done = []
    thread.start()
    thread.join(20)
    assert done == [True]
