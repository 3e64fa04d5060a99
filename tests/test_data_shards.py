"A store in shards: the pixels of one file, whoever builds which part and whoever is killed"

import os
import shutil
import signal
import weakref

import numpy as np
import pytest
import torch
from conftest import counts
from forked import forks
from PIL import Image

import simpsons_cnn as sc
from simpsons_cnn.core.config import Config
from simpsons_cnn.core.files import temp_path
from simpsons_cnn.data import shards
from simpsons_cnn.data.batches import _to_gpu_if_it_fits
from simpsons_cnn.data.fixes import Fix, apply_fixes
from simpsons_cnn.data.folders import ImageFiles
from simpsons_cnn.data.preprocess import Preprocess
from simpsons_cnn.data.shards import PixelParts, build_shard, open_store, read_ahead
from simpsons_cnn.data.store import PixelStore
from simpsons_cnn.training.loop import fit
from simpsons_cnn.training.prepare import create_network, prepare, scan_folders


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(x).save(path)


@pytest.fixture
def root(tmp_path):
    for i in range(35):
        save(tmp_path / "train" / "abc"[i % 3] / f"{i}.bmp", i)
    return tmp_path / "train"


@pytest.fixture
def small_files(monkeypatch):
    "Files of five pictures at most"
    monkeypatch.setattr(shards, "_FILE_BYTES", shards._HEADER_BYTES + 5 * 3 * 16**2)


@pytest.fixture
def decoded(monkeypatch):
    "The pictures that were decoded, in order"
    seen, decode = [], Preprocess.decode

    def noting(self, source, *args, **kwargs):
        seen.append(source)
        return decode(self, source, *args, **kwargs)

    monkeypatch.setattr(Preprocess, "decode", noting)
    return seen


def build_all(root, count=3, **kwargs):
    files = ImageFiles.scan(root)
    return [build_shard(files, n, count, size=16, **kwargs) for n in range(1, count + 1)]


def stored(root):
    "Names of the arrays"
    return sorted(path.name for path in (root.parent / ".pixels").glob("*.npy"))


def check(store):
    "Each row is its picture as decoded now"
    assert len(store) == len(store.files)
    for x, path in zip(store.pixels, store.files.paths, strict=True):
        assert torch.equal(x, store.preprocess(path, draft=True))


def test_separate_processes_build_one_store(root, tmp_path):
    for number in (2, 3, 1):
        assert forks("built_shard:job", str(root), number, 3).code == 0
    assert len(stored(root)) == 9
    assert max(p.stat().st_size for p in (root.parent / ".pixels").glob("*.npy")) <= 128 + 5 * 768
    files = ImageFiles.scan(root)
    store, one = open_store(files, 16), PixelStore.build(files, 16, folder=tmp_path / "one")
    assert torch.equal(store.pixels.to("cpu"), one.pixels)
    assert (store.digest, store.hashes, store.changes) == (one.digest, one.hashes, "")
    assert store.files.names == one.files.names
    check(store)


def test_a_store_in_one_file_stays_as_it_is(root, decoded):
    files = ImageFiles.scan(root)
    before = PixelStore.build(files, 16)
    bytes_before = {p.name: p.read_bytes() for p in before.path.parent.iterdir()}
    build_all(root)
    decoded.clear()
    check(open_store(files, 16))
    assert PixelStore.build(files, 16).changes == ""
    assert {name: (before.path.parent / name).read_bytes() for name in bytes_before} == bytes_before


# A part is written in three steps: the array gets its name, then the manifest is written, then it
# gets its name. The first file of all is the index.
KILLS = [
    [("before a rename", 1)],
    [("after a rename", 1), ("half written", 1)],
    [("before a rename", 2), ("after a rename", 2), ("before a rename", 3)],
]


def test_killed_and_started_again(root, tmp_path):
    for i, moments in enumerate(KILLS):
        folder = tmp_path / str(i) / "train"
        shutil.copytree(root, folder)
        for moment in moments:
            ended = forks("built_shard:job", str(folder), 1, 2, moment)
            assert ended.code == -signal.SIGKILL, ended.err
            counts["kills"][f"{moment[0]}, in a shard of a store"] += 1
        for number in (2, 1):
            ended = forks("built_shard:job", str(folder), number, 2)
            assert ended.code == 0, ended.err
        check(open_store(ImageFiles.scan(folder), 16))
        left = {p.suffix for p in (folder.parent / ".pixels").iterdir() if p.name[0] != "."}
        assert left == {".json", ".npy"} and len(stored(folder)) == 8


def test_finished_parts_are_not_decoded_again(root, small_files, decoded):
    files = ImageFiles.scan(root)
    assert build_shard(files, 1, 2, size=16).remaining == [2]
    assert len(decoded) == 17
    (root.parent / ".pixels" / stored(root)[1]).unlink()
    decoded.clear()
    assert build_shard(files, 1, 2, size=16).pictures == 17
    assert decoded == files.paths[4:8]


def test_a_missing_part_is_named_with_its_command(root, small_files):
    files = ImageFiles.scan(root)
    for number in (1, 3):
        build_shard(files, number, 4, size=16, folder=root.parent / "kept in")
    with pytest.raises(FileNotFoundError, match="not complete: 2/4, 4/4; build the first") as e:
        open_store(files, 16, folder=root.parent / "kept in")
    options = f"--shard 2/4 --size 16 --store_directory '{root.parent / 'kept in'}'"
    assert str(e.value).endswith(f"simpsons_data {root} {options}")
    for number in (2, 4):
        build_shard(files, number, 4, size=16, folder=root.parent / "kept in")
    check(open_store(files, 16, folder=root.parent / "kept in"))


@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_a_damaged_part_counts_as_missing(root, suffix):
    build_all(root)
    pixels = root.parent / ".pixels"
    [path] = [p for p in pixels.glob(f"*part-002*{suffix}") if p.name[0] != "."]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(FileNotFoundError, match="--shard 2/3"):
        open_store(ImageFiles.scan(root), 16)
    build_all(root)
    check(open_store(ImageFiles.scan(root), 16))


def test_a_damaged_index(root):
    build_all(root)
    (root.parent / ".pixels" / "train-16-stretch.parts.json").write_text("{")
    with pytest.raises(ValueError, match=r"parts\.json' is damaged; remove it and build"):
        open_store(ImageFiles.scan(root), 16)


def test_machines_with_other_lists_are_noticed(root):
    files = ImageFiles.scan(root)
    build_shard(files, 1, 2, size=16)
    for other in (files.select(range(34)), files.select([*range(33), 34, 33])):
        with pytest.raises(ValueError, match="give each job the same folder and count"):
            build_shard(other, 2, 2, size=16)
    with pytest.raises(ValueError, match=r"among 2 shards, this job 35 .* among 3"):
        build_shard(files, 3, 3, size=16)


def test_a_job_that_begins_with_another_list_meanwhile(root, monkeypatch):
    files, build = ImageFiles.scan(root), shards._build_part

    def other_job_begins(job, index, part):
        monkeypatch.setattr(shards, "_build_part", build)
        build_shard(files.select(range(30)), 2, 2, size=16, overwrite=True)
        return build(job, index, part)

    monkeypatch.setattr(shards, "_build_part", other_job_begins)
    with pytest.raises(ValueError, match="divides 30 pictures"):
        build_shard(files, 1, 2, size=16)


def test_pictures_that_were_edited_added_and_removed(root, decoded):
    build_all(root)
    save(root / "a" / "3.bmp", 99)
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError, match=r"\(1 changed\); start all 3 jobs again"):
        open_store(files, 16)
    decoded.clear()
    build_all(root)
    assert len(decoded) == 1
    check(open_store(files, 16))
    save(root / "c" / "new.bmp", 100)
    (root / "a" / "3.bmp").unlink()
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError, match=r"\(1 added\).* --shard 1/3 --size 16 --overwrite"):
        open_store(files, 16)
    decoded.clear()
    build_all(root, overwrite=True)
    assert len(decoded) <= 3  # the new one, and one at each border that moved
    check(open_store(files, 16))


def test_shards_of_an_older_list_remain_to_be_built(root):
    build_all(root, 5)
    save(root / "a" / "zz.bmp", 100)
    files = ImageFiles.scan(root)
    assert build_shard(files, 4, 5, size=16, overwrite=True).remaining == [
        2,
        3,
        5,
    ]  # 1 holds the same
    remaining = [built.remaining for built in build_all(root, 5)]
    assert remaining == [[2, 3, 5], [3, 5], [5], [5], []]
    check(open_store(files, 16))


def test_another_division_leaves_no_files_of_the_first(root):
    build_all(root, 3)
    of_killed_job = temp_path(root.parent / ".pixels" / "train-16-stretch.part-002-of-003")
    of_killed_job.write_bytes(b"half an array")
    build_all(root, 5, overwrite=True)
    assert not of_killed_job.exists()
    assert len(stored(root)) == 5 and all("-of-005-" in name for name in stored(root))
    check(open_store(ImageFiles.scan(root), 16))


def test_fixes_drop_and_move_pictures(root, decoded):
    build_all(root)
    files = ImageFiles.scan(root)
    moved, dropped = files.names[4], files.names[9]
    fixed = apply_fixes(files, {moved: Fix("move", "b"), dropped: Fix("drop")})
    decoded.clear()
    store = open_store(fixed, 16)
    assert decoded == []
    assert (len(store), store.labels[4].item(), dropped in store.files.names) == (34, 1, False)
    check(store)


def test_unreadable_pictures_are_named_or_left_out(root, small_files):
    (root / "a" / "0.bmp").write_text("note")
    (root / "b" / "1.bmp").write_text("note")
    built = build_all(root)
    assert [name for shard in built for name in shard.unreadable] == ["a/0.bmp", "b/1.bmp"]
    files = ImageFiles.scan(root)
    with pytest.raises(ValueError, match="2 of 35 pictures cannot be read"):
        open_store(files, 16)
    store = open_store(files, 16, skip_unreadable=True)
    assert (len(store), sorted(store.unreadable)) == (33, ["a/0.bmp", "b/1.bmp"])
    check(store)
    some = open_store(files.select(range(5, 35)), 16, skip_unreadable=True)
    assert sorted(some.unreadable) == ["b/1.bmp"]
    check(some)


def test_a_shard_may_hold_no_readable_picture(root):
    "As where the downloads of one character were cut off; only all pictures together are too few"
    for path in (root / "b").iterdir():
        path.write_text("note")
    assert [len(shard.unreadable) for shard in build_all(root, 5)] == [0, 2, 7, 3, 0]
    files = ImageFiles.scan(root)
    store = open_store(files, 16, skip_unreadable=True)
    assert (len(store), store.files.counts.tolist()) == (23, [12, 0, 11])
    check(store)
    with pytest.raises(ValueError, match="None of the 12 pictures under '.*' can be read; the fir"):
        open_store(files.select(files.labels == 1), 16, skip_unreadable=True)


def test_rows_of_several_arrays():
    arrays = torch.randint(256, (9, 4, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    rows = torch.tensor([8, 0, 3, 7])
    parts = PixelParts(list(arrays.split([2, 1, 6])), rows)
    assert (parts.shape, parts.nbytes, len(parts)) == ((4, 3, 4, 4), 4 * 48, 4)
    assert torch.equal(parts.to("cpu"), arrays[rows])
    assert torch.equal(parts[torch.tensor([True, False, False, True])], arrays[[8, 7]])
    assert torch.equal(parts[-1], arrays[7])
    assert torch.equal(torch.stack(list(parts)), arrays[rows])
    assert torch.equal(torch.cat(list(parts.split(3))), arrays[rows])
    assert torch.equal(parts[1:3][[0]], arrays[[0]])
    assert parts[[1, 1]].is_contiguous(memory_format=torch.channels_last)
    assert parts[torch.tensor([], dtype=torch.int64)].shape == (0, 3, 4, 4)


def test_a_copy_of_all_images_needs_no_second_one(monkeypatch):
    "Of what is read from the arrays, two pieces at most are in memory beside it"
    arrays = torch.randint(256, (20_000, 2, 2, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    parts = PixelParts(list(arrays.split(7000)), torch.randperm(20_000))
    take, pieces, in_memory = PixelParts._take, [], []

    def noting(self, rows):
        images = take(self, rows)
        pieces.append(weakref.ref(images))
        in_memory.append(sum(piece() is not None for piece in pieces))
        return images

    monkeypatch.setattr(PixelParts, "_take", noting)
    copy = parts.to("cpu")
    assert torch.equal(copy, arrays[parts.rows])
    assert copy.is_contiguous(memory_format=torch.channels_last)
    assert len(pieces) == 5
    assert max(in_memory) <= 2


def test_each_slice_has_a_copy_of_its_own_on_a_gpu(monkeypatch):
    arrays = torch.randint(256, (8, 4, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    parts = PixelParts(list(arrays.split(4)), torch.arange(8))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**12, 10**12))
    to = PixelParts.to
    monkeypatch.setattr(PixelParts, "to", lambda self, device: to(self, "cpu"))
    halves = parts[:4], parts[4:]
    copies = [_to_gpu_if_it_fits(half, torch.device("cuda")) for half in halves]
    assert torch.equal(torch.cat(copies), arrays)
    assert _to_gpu_if_it_fits(halves[0], torch.device("cuda")) is copies[0]


@pytest.fixture
def drawn(tmp_path):
    return sc.demo_characters(tmp_path / "data/demo", train=6, test=1).parent.parent


def weights_after_an_epoch(folder, **settings):
    "Train as a run does, one epoch; the weights"
    config = Config.demo(
        folder, size=64, batch_size=16, num_epochs=1, valid=0.2, device="cpu", **settings
    )
    data = prepare(config, *scan_folders(config))
    model = create_network(config, 10)
    fit(model, data.train_dl, data.valid_dl, recipe=config.training_parameters, callbacks=[])
    return data.train_dl.store, model.state_dict()


def test_training_gives_the_same_bits(drawn, tmp_path):
    _, expected = weights_after_an_epoch(drawn, store_directory=tmp_path / "one")
    files = ImageFiles.scan(drawn / "data/demo/train")
    for number in (2, 3, 1):
        build_shard(files, number, 3, size=64)
    store, found = weights_after_an_epoch(drawn)
    assert isinstance(store.pixels, PixelParts)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    first = create_network(Config.demo(drawn), 10).state_dict()
    assert not any(torch.equal(found[name], first[name]) for name in first if "weight" in name)


def test_an_audit_takes_the_shards(drawn):
    files = ImageFiles.scan(drawn / "data/demo/train")
    shutil.copy(files.paths[3], files.paths[3].with_name("copy.jpg"))
    files = ImageFiles.scan(drawn / "data/demo/train")
    expected = sc.audit(files, store_directory=drawn / "one")
    for number in (1, 2):
        build_shard(files, number, 2)
    report = sc.audit(files)
    assert report.counts() == expected.counts()
    assert report.duplicates.equals(expected.duplicates)
    assert len(list((drawn / "data/demo/.pixels").glob("*.npy"))) == 2


def rows_asked_for(store, rows, monkeypatch) -> torch.Tensor:
    "The images that the system is asked to read, from the bytes of the files"
    pieces, bytes_of_row = [], 3 * 16**2
    monkeypatch.setattr(shards, "_ADVICE_BYTES", 1000)
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *piece: pieces.append((fd, *piece)))
    wanted = []
    opened = shards._advise

    def advise(path, *args):
        before = len(pieces)
        opened(path, *args)
        array = np.memmap(path, np.uint8, "r")
        parts = [array[start : start + n] for _, start, n, _ in pieces[before:]]
        wanted.append(np.concatenate(parts).reshape(-1, bytes_of_row))

    monkeypatch.setattr(shards, "_advise", advise)
    read_ahead(store, rows)
    assert all(n <= 1000 for _, _, n, _ in pieces)
    return torch.from_numpy(np.concatenate(wanted)).view(-1, 16, 16, 3).permute(0, 3, 1, 2)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
@pytest.mark.parametrize("count", [0, 3])
def test_what_is_read_ahead(root, small_files, monkeypatch, count):
    build_all(root, count)
    files = ImageFiles.scan(root).select([*range(3, 20), *range(21, 35)])
    store = open_store(files, 16)
    rows = torch.tensor([30, 0, 1, 2, 3, 4, 17, 16, 8])
    found = rows_asked_for(store, rows, monkeypatch)
    assert torch.equal(found, torch.stack([store.pixels[i] for i in rows.sort().values]))


def test_advice_is_never_an_error(root):
    build_all(root)
    store = open_store(ImageFiles.scan(root), 16)
    shutil.rmtree(root.parent / ".pixels")
    read_ahead(store, torch.arange(35))
    read_ahead(store, torch.arange(0))
