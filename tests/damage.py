"""Pictures, folders and files as nobody wants them, each made from a few plain values.

A picture is a pair `(base, steps)`: one of `BASES` (drawn and saved in every format that Pillow
writes) or of `CRAFTED` (built by hand, to be large where it hurts), and what is then done to its
bytes, such as `[('flip', 30, 255), ('cut', 900)]`.
"""

import contextlib
import io
import os
import random
import shutil
import socket
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from simpsons_cnn.demo.characters import character_names, draw_character


def _scene(seed=0) -> Image.Image:
    return draw_character(character_names[seed % 10], np.random.default_rng(seed), 72)


def _saved(im, format, **kwargs) -> bytes:
    f = io.BytesIO()
    im.save(f, format, **kwargs)
    return f.getvalue()


def _exif(**tags) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tags.get("orientation", 6)
    exif[0x010E] = "a description"
    exif.get_ifd(0x8769)[0x9286] = b"comment"
    return exif


def _writers() -> dict:
    "name -> function that saves a scene in that way"
    rgb = _scene()
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L"))
    palette = rgb.quantize(32)
    frames = [_scene(i).resize(rgb.size) for i in (1, 2)]

    def writer(format, im=rgb, **kwargs):
        return lambda: _saved(im, format, **kwargs)

    grey16 = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    return dict(
        jpeg=writer("jpeg"),
        progressive=writer("jpeg", progressive=True),
        cmyk=writer("jpeg", rgb.convert("CMYK")),
        progressive_cmyk=writer("jpeg", rgb.convert("CMYK"), progressive=True),
        grey=writer("jpeg", rgb.convert("L")),
        sideways=writer("jpeg", exif=_exif()),
        tagged=writer("jpeg", exif=_exif(orientation=9), icc_profile=b"x" * 300, comment=b"c" * 50),
        mpo=writer("mpo", save_all=True, append_images=frames),
        png=writer("png"),
        png_alpha=writer("png", alpha),
        png_palette=writer("png", palette),
        png_holes=writer("png", palette, transparency=bytes(range(32))),
        png_hole=writer("png", rgb, transparency=(255, 255, 255)),
        png_16=writer("png", grey16),
        png_1=writer("png", rgb.convert("1")),
        png_la=writer("png", alpha.convert("LA")),
        png_exif=writer("png", exif=_exif(orientation=5), icc_profile=b"y" * 99),
        apng=writer("png", save_all=True, append_images=frames),
        gif=writer("gif"),
        gif_film=writer("gif", save_all=True, append_images=frames, duration=50),
        gif_holes=writer("gif", palette, transparency=3),
        webp=writer("webp"),
        webp_lossless=writer("webp", alpha, lossless=True),
        webp_film=writer("webp", save_all=True, append_images=frames, exif=_exif()),
        bmp=writer("bmp"),
        bmp_palette=writer("bmp", palette),
        bmp_1=writer("bmp", rgb.convert("1")),
        bmp_alpha=writer("bmp", alpha),
        dib=writer("dib"),
        tiff=writer("tiff"),
        tiff_lzw=writer("tiff", compression="tiff_lzw"),
        tiff_deflate=writer("tiff", compression="tiff_adobe_deflate"),
        tiff_jpeg=writer("tiff", compression="jpeg"),
        tiff_fax=writer("tiff", rgb.convert("1"), compression="group4"),
        tiff_16=writer("tiff", grey16),
        tiff_float=writer("tiff", rgb.convert("F")),
        tiff_cmyk=writer("tiff", rgb.convert("CMYK")),
        tiff_lab=writer("tiff", rgb.convert("LAB")),
        tiff_int=writer("tiff", rgb.convert("I")),
        tiff_film=writer("tiff", save_all=True, append_images=frames),
        tiff_alpha=writer("tiff", alpha),
        ppm=writer("ppm"),
        pgm=writer("ppm", rgb.convert("L")),
        pbm=writer("ppm", rgb.convert("1")),
        pgm_16=writer("ppm", grey16),
        pfm=writer("ppm", rgb.convert("F")),
        ico=writer("ico", alpha, sizes=[(32, 32)]),
        icns=writer("icns", alpha.resize((32, 32))),
        jp2=writer("jpeg2000"),
        avif=writer("avif"),
        tga=writer("tga"),
        pcx=writer("pcx"),
        sgi=writer("sgi"),
        im=writer("im"),
        dds=writer("dds"),
        xbm=writer("xbm", rgb.convert("1")),
        msp=writer("msp", rgb.convert("1")),
        spider=writer("spider", rgb.convert("F")),
        eps=writer("eps"),
        pdf=writer("pdf"),
    )


BASES = tuple(_writers())


@cache
def base(name: str) -> bytes:
    try:
        return _writers()[name]()
    except (KeyError, OSError):
        return b"this build of Pillow does not write " + name.encode()


# --- built by hand


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@cache
def _deflated(n: int) -> bytes:
    "`n` zero bytes, packed a thousandfold"
    z = zlib.compressobj(9)
    return b"".join(z.compress(bytes(min(2**20, n - i))) for i in range(0, n, 2**20)) + z.flush()


def png_of(width, height, bits=8, colour=2, before=b"", data=b"", after=b"") -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + before
        + chunk(b"IDAT", data or zlib.compress(bytes(1000)))
        + after
        + chunk(b"IEND", b"")
    )


def full_png(side, bits, colour, before=b"") -> bytes:
    "A whole picture of zeros: kilobytes on disk"
    per_pixel = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * bits
    return png_of(
        side, side, bits, colour, before, _deflated(side * (1 + (side * per_pixel + 7) // 8))
    )


def gif_of(width, height, frame=None) -> bytes:
    x, y, w, h = frame or (0, 0, width, height)
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", x, y, w, h, 0)
        + b"\x02\x03\x84\x8f\x05\x00;"
    )


def tiff_of(entries, data=b"", next_ifd=0) -> bytes:
    return (
        b"II*\x00\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + struct.pack("<I", next_ifd)
        + data
    )


def _tiff_tags(
    width, height, bits=8, compression=1, photometric=1, samples=1, strip=200, count=1000
):
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, bits),
        (259, 3, 1, compression),
        (262, 3, 1, photometric),
        (273, 4, 1, strip),
        (277, 3, 1, samples),
        (278, 4, 1, height),
        (279, 4, 1, count),
    ]


def jpeg_of(width, height, of="jpeg") -> bytes:
    "A JPEG whose header speaks of other sides than its data"
    data = base(of)
    i = data.index(b"\xff\xc2" if "progressive" in of else b"\xff\xc0")
    return data[: i + 5] + struct.pack(">HH", height, width) + data[i + 9 :]


CRAFTED = dict(
    nothing=lambda: b"",
    one_byte=lambda: b"\xff",
    text=lambda: b"just some words\n" * 9,
    zeros=lambda: bytes(5000),
    html=lambda: b"<!DOCTYPE html><img src=x onerror=alert(1)>" * 9,
    svg=lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    zip=lambda: b"PK\x03\x04" + bytes(60),
    png_absurd=lambda: png_of(30_000, 30_000),
    png_most=lambda: png_of(2**31 - 1, 2**31 - 1),
    png_line=lambda: png_of(2**31 - 1, 1),
    png_none=lambda: png_of(0, 0),
    png_near=lambda: png_of(9000, 9900, 16, 6),
    png_full_grey=lambda: full_png(9400, 8, 0),
    png_full_rgb=lambda: full_png(9400, 8, 2),
    png_full_rgba=lambda: full_png(9400, 8, 6),
    png_full_16=lambda: full_png(9000, 16, 0),
    png_full_la=lambda: full_png(9400, 8, 4),
    png_full_bit=lambda: full_png(9400, 1, 0),
    png_full_holes=lambda: full_png(
        9400, 8, 3, chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256))
    ),
    png_full_turned=lambda: full_png(
        9400, 8, 6, chunk(b"eXIf", _exif(orientation=6).tobytes()[6:])
    ),
    png_idat_bomb=lambda: png_of(20, 20, data=_deflated(2**30)),
    png_idat_long=lambda: png_of(5000, 5000, data=_deflated(2**30)),
    png_ztxt_bomb=lambda: png_of(9, 9, before=chunk(b"zTXt", b"k\0\0" + _deflated(2**28))),
    png_itxt_bomb=lambda: png_of(9, 9, before=chunk(b"iTXt", b"k\0\1\0\0\0" + _deflated(2**28))),
    png_many_texts=lambda: png_of(
        9, 9, before=chunk(b"zTXt", b"k\0\0" + _deflated(2**20 - 9)) * 200
    ),
    png_late_bomb=lambda: png_of(9, 9, after=chunk(b"zTXt", b"k\0\0" + _deflated(2**28))),
    png_iccp_bomb=lambda: png_of(9, 9, before=chunk(b"iCCP", b"k\0\0" + _deflated(2**28))),
    png_chunks=lambda: png_of(9, 9, before=chunk(b"abCd", b"") * 100_000),
    png_no_palette=lambda: png_of(30, 30, 8, 3),
    png_odd_bits=lambda: png_of(30, 30, 7, 2),
    png_exif_garbage=lambda: png_of(
        9,
        9,
        before=chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 300),
        data=zlib.compress(bytes(9 * 28)),
    ),
    gif_absurd=lambda: gif_of(65535, 65535),
    gif_frame=lambda: gif_of(10, 10, (0, 0, 65535, 65535)),
    gif_far=lambda: gif_of(10, 10, (60000, 60000, 100, 100)),
    gif_none=lambda: gif_of(0, 0),
    tiff_absurd=lambda: tiff_of(_tiff_tags(2**31, 2**31)),
    tiff_wide=lambda: tiff_of(_tiff_tags(2**32 - 1, 1)),
    tiff_samples=lambda: tiff_of(_tiff_tags(100, 100, samples=65535)),
    tiff_strip=lambda: tiff_of(_tiff_tags(9000, 9000, strip=2**32 - 1, count=2**32 - 1)),
    tiff_lzw_short=lambda: tiff_of(_tiff_tags(9000, 9000, compression=5), bytes(1000)),
    tiff_loop=lambda: tiff_of(_tiff_tags(10, 10), bytes(1000), next_ifd=8),
    tiff_many=lambda: tiff_of([(273, 4, 2**30, 8), *_tiff_tags(100, 100)]),
    tiff_exif_loop=lambda: tiff_of([*_tiff_tags(10, 10), (34665, 4, 1, 8)], bytes(1000)),
    bmp_absurd=lambda: _bmp(2**31 - 1, 2**31 - 1),
    bmp_negative=lambda: _bmp(-5, -(2**31)),
    bmp_rle=lambda: _bmp(9000, 9000, 8, 1),
    bmp_none=lambda: _bmp(0, 0),
    bmp_near=lambda: _bmp(9400, 9400),
    webp_absurd=lambda: _webp(16383, 16383),
    webp_canvas=lambda: _webp(2**24, 2**24),
    ppm_absurd=lambda: b"P6 99999999 99999999 255\n" + bytes(50),
    ppm_zero=lambda: b"P6 5 5 0\n" + bytes(75),
    ppm_digits=lambda: b"P5 " + b"9" * 100_000,
    ppm_plain=lambda: b"P3 3000 3000 255\n" + b"1 " * 1000,
    ppm_spaces=lambda: b"P2 90 90 255" + b" " * 2_000_000,
    ppm_comment=lambda: b"P5 #" + b"x" * 2_000_000,
    pam=lambda: b"P7\nWIDTH 9\nHEIGHT 9\nDEPTH 9\nMAXVAL 255\nENDHDR\n" + bytes(999),
    pfm=lambda: b"Pf\n9 9\nnan\n" + bytes(400),
    jpeg_absurd=lambda: jpeg_of(65500, 65500),
    jpeg_none=lambda: jpeg_of(0, 0),
    jpeg_near=lambda: jpeg_of(9400, 9400),
    jpeg_slow=lambda: jpeg_of(9400, 9400, "progressive"),
    jpeg_slow_cmyk=lambda: jpeg_of(9400, 9400, "progressive_cmyk"),
    jpeg_line=lambda: jpeg_of(65500, 1),
    jpeg_markers=lambda: b"\xff\xd8" + b"\xff\xe1\0\x02" * 50_000,
    jpeg_fill=lambda: b"\xff\xd8" + b"\xff" * 2_000_000,
    jpeg_scans=lambda: _many_scans(),
    jpeg_exif_loop=lambda: _with_app1(
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\0\0\0\0"
    ),
    jpeg_exif_far=lambda: _with_app1(b"Exif\0\0II*\0\xff\xff\xff\xff"),
    jpeg_exif_text=lambda: _with_app1(
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0"
    ),
    jpeg_exif_none=lambda: _with_app1(b"Exif\0\0"),
    jpeg_mpf=lambda: _with_app1(b"MPF\0II*\0\x08\0\0\0\0\0", b"\xff\xe2"),
    eps_loop=lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\n"
    ),
    eps_box=lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\n",
    psd=lambda: b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 30000, 30000, 8, 3) + bytes(60),
    fits=lambda: (
        b"SIMPLE  =                    T".ljust(80)
        + b"NAXIS   =                    2".ljust(80)
        + bytes(2880)
    ),
    ico_bomb=lambda: (
        b"\0\0\1\0\1\0"
        + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 10**6, 22)
        + full_png(9000, 8, 6)
    ),
    ico_many=lambda: b"\0\0\1\0\xff\xff" + bytes(16) * 65535,
    icns_bomb=lambda: (
        b"icns"
        + struct.pack(">I", 10**6)
        + b"ic10"
        + struct.pack(">I", 10**6 - 8)
        + full_png(9000, 8, 6)
    ),
    xpm=lambda: b"/* XPM */\n" + b'"99999 99999 2 1",\n' * 9,
    fli=lambda: struct.pack("<IHHHHHH", 128, 0xAF12, 9, 60000, 60000, 8, 3) + bytes(200),
)


def _bmp(width, height, bits=24, compression=0) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 2000, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
        + bytes(1946)
    )


def _webp(width, height) -> bytes:
    def part(kind, data):
        return kind + struct.pack("<I", len(data)) + data

    lossless = (
        b"\x2f"
        + struct.pack("<I", (min(width, 16384) - 1) | (min(height, 16384) - 1) << 14)
        + bytes(40)
    )
    body = (
        b"WEBP"
        + part(
            b"VP8X", bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        )
        + part(b"VP8L", lossless + b"\0")
    )
    return part(b"RIFF", body)


def _with_app1(data: bytes, marker=b"\xff\xe1") -> bytes:
    return b"\xff\xd8" + marker + struct.pack(">H", len(data) + 2) + data + base("jpeg")[2:]


def _many_scans() -> bytes:
    "A progressive JPEG that sends its last scan ten thousand times"
    data = jpeg_of(2000, 2000, "progressive")
    i = data.rindex(b"\xff\xda")
    return data[:i] + data[i:-2] * 10_000 + b"\xff\xd9"


# --- what is done to the bytes


def with_crcs(data: bytes) -> bytes:
    "A PNG whose checksums are right again"
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    out, i = data[:8], 8
    while i + 12 <= len(data):
        n = int.from_bytes(data[i : i + 4], "big")
        if i + 12 + n > len(data):
            break
        out += chunk(data[i + 4 : i + 8], data[i + 8 : i + 8 + n])
        i += 12 + n
    return out + data[i:]


def damaged(data: bytes, steps) -> bytes:  # noqa: C901  one branch per kind of damage
    for what, at, how in steps:
        at %= len(data) + 1
        if what == "cut":
            data = data[:at]
        elif what == "flip":
            data = data[:at] + bytes([b ^ how % 256 for b in data[at : at + 1]]) + data[at + 1 :]
        elif what == "drop":
            data = data[:at] + data[at + how % 100 :]
        elif what == "double":
            data = data[:at] + data[max(0, at - how % 100) :]
        elif what == "little":
            data = data[:at] + (how % 2**32).to_bytes(4, "little") + data[at + 4 :]
        elif what == "big":
            data = data[:at] + (how % 2**32).to_bytes(4, "big") + data[at + 4 :]
        elif what == "noise":
            data = data[:at] + random.Random(how).randbytes(40) + data[at + 40 :]
        elif what == "head":
            data = base(BASES[how % len(BASES)])[: at % 200] + data[at % 200 :]
        elif what == "tail":
            data = data + base(BASES[how % len(BASES)])
        elif what == "crc":
            data = with_crcs(data)
        else:
            raise ValueError(what)
    return data


@cache
def _crafted(name: str) -> bytes:
    return CRAFTED[name]()


def picture(of) -> bytes:
    "The bytes of `(base, steps)`"
    name, steps = of
    return damaged(_crafted(name) if name in CRAFTED else base(name), steps)


# --- files and folders


def put(path: bytes, kind: str, value=None):  # noqa: C901, PLR0912  one branch per kind of entry
    "Make what `kind` says at `path`; whatever the file system does not allow is left out"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if kind == "picture":
            _write(path, picture(value))
        elif kind == "bytes":
            _write(path, value)
        elif kind == "folder":
            os.makedirs(path, exist_ok=True)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "link":
            os.symlink(value, path)
        elif kind == "locked":
            _write(path, base("png"))
            os.chmod(path, 0)
        elif kind == "locked folder":
            os.makedirs(path, exist_ok=True)
            _write(path + b"/x.png", base("png"))
            os.chmod(path, 0)
        elif kind == "sparse":
            _write(path, base("jpeg"))
            os.truncate(path, 2**36)
        elif kind == "socket":
            _socket(path)
        elif kind == "deep":
            _deep(path, value)
        elif kind == "web":
            _web(path, value)
        else:
            raise ValueError(kind)
    except OSError:
        pass


def _write(path, data):
    with open(path, "wb") as f:
        f.write(data)


def _socket(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


def _deep(path, levels):
    "Folders in folders, each by a step of its own, for a path has an end"
    here = os.open(".", os.O_RDONLY)
    try:
        os.makedirs(path, exist_ok=True)
        os.chdir(path)
        for _ in range(levels):
            os.mkdir("d")
            os.chdir("d")
        _write(b"x.png", base("png"))
    finally:
        os.fchdir(here)
        os.close(here)


def _web(path, n):
    "`n` folders, each with a picture and links to all the others"
    for i in range(n):
        os.makedirs(path + b"/%d" % i)
        _write(path + b"/%d/x.png" % i, base("png"))
        for j in range(n):
            os.symlink(b"../%d" % j, path + b"/%d/to%d" % (i, j))


def spoil(path, how: str):
    "Change a file behind the back of whoever has found it"
    path = Path(path)
    if how == "nothing":
        return
    if how == "root":
        return shutil.rmtree(path.parent.parent, ignore_errors=True)
    if how == "cut":
        return path.exists() and path.is_file() and os.truncate(path, 30)
    if how == "other":
        return path.is_file() and path.write_bytes(base("gif"))
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        dict(
            gone=lambda: None,
            fifo=lambda: os.mkfifo(path),
            folder=path.mkdir,
            dangling=lambda: path.symlink_to("nowhere"),
            loop=lambda: path.symlink_to(path.name),
            device=lambda: path.symlink_to("/dev/zero"),
        )[how]()


SPOILS = ("nothing", "root", "cut", "other", "gone", "fifo", "folder", "dangling", "loop", "device")
