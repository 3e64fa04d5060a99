"""Other decoders of JPEGs beside Pillow's: their speed, their bytes, and what they say of damage.

pip install simplejpeg torchcodec
python scripts/jpeg_decoders.py [--files 300] [--rounds 7]

The pictures are drawn, 320×432 pixels. All parts run in one thread, in turns; `prepared` reads and
shrinks them as prediction does, with simplejpeg and without it. The last lines say what a decoder
does with a file that has 15 needless bytes before its end: it reads the picture, or raises an
error, and it may write to the terminal, where nobody knows which file is meant.
"""

import argparse
import importlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_jpeg

import simpsons_cnn as sc
from simpsons_cnn.cli.bench import save_jpegs, system_info
from simpsons_cnn.cli.interleave import interleave, speeds_and_ratios
from simpsons_cnn.data import images


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def by_tensor(decode):
    "A decoder from and to tensors as one from bytes to an array"

    def decoder(data: bytes) -> np.ndarray:
        return decode(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    return decoder


def decoders() -> dict:
    "Those that are installed, by name"
    found = dict(pillow=pillow, torchvision=by_tensor(decode_jpeg))
    for name, module in dict(torchcodec="torchcodec.decoders", simplejpeg="simplejpeg").items():
        try:
            decode = importlib.import_module(module).decode_jpeg
        except ImportError:
            print(f"{name} is not installed")
            continue
        found[name] = by_tensor(decode) if name == "torchcodec" else decode
    return found


def preparing(files: list, simplejpeg):
    "A part: files as `Preprocess` reads them, with a decoder of JPEGs or `None`"

    def part():
        images._simplejpeg = lambda: simplejpeg
        return len([sc.Preprocess()(io.BytesIO(data)) for data in files])

    return part


def answer_to_damage(decode, data: bytes) -> str:
    "What a decoder does with needless bytes before the end of a file"
    with tempfile.TemporaryFile() as written:
        terminal = os.dup(2)
        os.dup2(written.fileno(), 2)
        try:
            decode(data[:-2] + bytes(range(15)) + data[-2:])
            answer = "reads it"
        except Exception as e:
            answer = type(e).__name__
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        written.seek(0)
        return answer + (", writes to the terminal" if written.read() else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tmp:
        drawn = sc.demo_characters(Path(tmp) / "drawn", train=10, test=1) / "train"
        files = [path.read_bytes() for path in save_jpegs(drawn, args.files, (320, 432))]
    found = decoders()
    parts = {
        name: lambda decode=decode: len([decode(data) for data in files])
        for name, decode in found.items()
    }
    others = [(name, "pillow") for name in found if name != "pillow"]
    if simplejpeg := images._simplejpeg():
        parts |= {"prepared": preparing(files, simplejpeg), "without": preparing(files, None)}
        others.append(("prepared", "without"))
    speeds, ratios = speeds_and_ratios(*interleave(parts, args.rounds), others)
    print(system_info("cpu"))
    print(speeds.to_string(index=False), ratios.to_string(index=False), sep="\n\n")
    print()
    for name, decode in found.items():
        same = np.mean([np.array_equal(decode(data), pillow(data)) for data in files])
        print(f"{name}: {same:.0%} the same bytes; {answer_to_damage(decode, files[0])}")


if __name__ == "__main__":
    main()
