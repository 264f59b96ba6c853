"""Files that are damaged, or change while they are read: an error that names the file, or the whole right answer."""

import os
from collections import Counter

import numpy as np
import polars as pl
import pytest
from conformance import features, mixed_targets, tiny
from polars.testing import assert_frame_equal
from wired import read_small_parts

import tabmtl.scale.files
from tabmtl import SharedBottom
from tabmtl.scale import Shards, cache, predict_files, score_files

N_ROWS, TARGETS = 600, ["late", "size", "delay"]
ERRORS = (ValueError, TypeError, OSError)  # none of polars, and no panic

KINDS = ("truncated", "flipped", "cut inside", "rewritten", "replaced", "appended")
USES = ("fit", "predict", "score")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    read_small_parts(monkeypatch)
    monkeypatch.setattr(tabmtl.scale.files, "_BLOCK_ROWS", 50)


@pytest.fixture(scope="module")
def table():
    X = features(N_ROWS)
    return X.hstack(mixed_targets(X))


@pytest.fixture(scope="module")
def net(table):
    return tiny(SharedBottom, epochs=1).fit(table.drop(TARGETS), table.select(TARGETS))


def write(frame, file):
    frame.write_csv(file) if file.suffix == ".csv" else frame.write_parquet(file, row_group_size=40)


def damage(kind, file, table, rng):
    """Damage a file in one of several ways."""
    content = file.read_bytes()
    place = int(rng.integers(1, len(content)))
    other = file.with_name(f"other{file.suffix}")
    if kind == "truncated":
        os.truncate(file, place)
    elif kind == "flipped":
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(rng.bytes(int(rng.integers(1, 9))))
            stream.truncate(len(content))
    elif kind == "cut inside":
        file.write_bytes(content[:place] + content[place + int(rng.integers(1, 2_000)) :])
    elif kind == "rewritten":
        write(table.sample(fraction=1, shuffle=True, seed=place).head(place % N_ROWS + 1), file)
    elif kind == "replaced":
        write(table.sample(fraction=1, shuffle=True, seed=place), other)
        other.replace(file)
    else:
        with file.open("ab") as stream:
            stream.write(content[place:])


def damage_later(monkeypatch, after, act):
    """Act when polars has given some blocks."""
    collect_batches, n_blocks = pl.LazyFrame.collect_batches, 0

    def counted(scan, **options):
        nonlocal n_blocks
        for block in collect_batches(scan, **options):
            yield block
            n_blocks += 1
            if n_blocks == after:
                act()

    monkeypatch.setattr(pl.LazyFrame, "collect_batches", counted)


def run(use, net, file, folder):
    """Return what a use of a file makes of it, and the function that makes the same of a frame."""
    if use == "predict":
        (found,) = predict_files(net, file, folder / "scored")
        return pl.read_parquet(found), lambda frame: net.predict(frame)
    if use == "score":
        return score_files(net, file), lambda frame: net.score_intervals(frame.drop(TARGETS), frame.select(TARGETS))
    model = tiny(SharedBottom, epochs=1).fit(Shards(file, cache=folder / "cache"), TARGETS)
    found = pl.DataFrame(np.load(folder / "cache" / "y.npy"))
    return found, lambda frame: pl.DataFrame(
        model.coder_.read(frame.select(model.coder_.names), frame.select(TARGETS)).y
    )


def is_silent(seed, net, table, folder, monkeypatch):
    """Damage a file, at rest or while it is read, and use it; return what happened, after a check of it."""
    rng = np.random.default_rng(seed)
    kind, use = KINDS[seed % len(KINDS)], USES[seed // len(KINDS) % len(USES)]
    at_rest, ending = rng.random() < 0.3, rng.choice([".parquet", ".csv"], p=[0.7, 0.3])
    file = folder / f"rows{ending}"
    write(table, file)
    os.utime(file, (1, 1))  # a clock of a few milliseconds could miss a change right now
    if at_rest:
        damage(kind, file, table, rng)
    else:
        damage_later(monkeypatch, int(rng.integers(1, 12)), lambda: damage(kind, file, table, rng))
    try:
        with np.errstate(all="ignore"):
            found, of_frame = run(use, net, file, folder)
    except ERRORS as error:
        assert at_rest or "rows." in f"{error} {getattr(error, '__notes__', '')}", error
        assert not (folder / "cache" / cache.MANIFEST).exists()
        assert not (folder / "scored" / "rows.parquet").exists()
        return "error"
    assert at_rest, f"{kind} file, changed while it was read for {use}, without a word"
    # values that no checksum guards may be others, but no row is lost: all that a plain reading finds are there
    read = table.drop(TARGETS).columns if use == "predict" else table.columns
    scan = pl.scan_csv(file, infer_schema_length=None) if ending == ".csv" else pl.scan_parquet(file)
    now = scan.select(read).collect()
    assert ending == ".csv" or kind in ("rewritten", "replaced") or now.height == N_ROWS
    assert_frame_equal(found, of_frame(now), check_exact=use != "score")
    return "right"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("n", "errors", "right"), [(6, 1, 0), pytest.param(500, 201, 11, marks=pytest.mark.all_faces)], ids=["some", "many"]
)
def test_damaged_files_lose_nothing_in_silence(net, table, tmp_path, n, errors, right):
    found = Counter()
    for seed in range(n):
        place = tmp_path / str(seed)
        place.mkdir()
        with pytest.MonkeyPatch.context() as monkeypatch:
            found[is_silent(seed, net, table, place, monkeypatch)] += 1
    assert found["error"] >= errors
    assert found["right"] >= right
