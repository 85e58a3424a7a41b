"""A judge file is whole or refused, and the same judge gives the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monitors.errors import JudgeFileError
from monitors.judges import judge_file
from monitors.judges.build import make_judge
from monitors.judges.judge_file import RELEASE_FILE, JudgeFile
from tests.monitors.judges.small import linear_file, small_file


def saved(folder: Path, file: JudgeFile) -> Path:
    path = folder / "judge.npz"
    file.save(path)
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    file = small_file()
    found, version = JudgeFile.load(saved(tmp_path, file))
    assert (found.encoder, found.alphabet) == (file.encoder, "äöü")
    assert (found.languages, found.about) == (("de", "en"), {"build": "small"})
    for name in ("mix", "threshold", "slope", "rise", "clear"):
        assert np.array_equal(getattr(found, name), getattr(file, name)), name
    assert np.abs(found.linear.unsafe - file.linear.unsafe).max() < 0.02
    assert JudgeFile.load(saved(tmp_path, found))[1] == version


def test_a_file_without_an_encoder(tmp_path: Path) -> None:
    found, _ = JudgeFile.load(saved(tmp_path, linear_file()))
    assert found.encoder is None
    assert np.array_equal(found.clear, [-np.inf] * 3)


def test_saving_repeats_to_the_byte(tmp_path: Path) -> None:
    assert saved(tmp_path, small_file()).read_bytes() == saved(tmp_path, small_file()).read_bytes()


def test_the_version_tells_judges_apart(tmp_path: Path) -> None:
    file = small_file()
    assert file.encoder is not None
    others = [
        file,
        replace(file, clear=file.mix[:, 0]),
        replace(file, languages=("de",)),
        replace(file, encoder=file.encoder._replace(onnx=file.encoder.onnx + b" ")),
    ]
    assert len({JudgeFile.load(saved(tmp_path, other))[1] for other in others}) == len(others)


def test_calibration_meets_one_half_at_the_threshold_and_is_never_certain() -> None:
    file = small_file()
    scores = file.calibrated(1, np.array([-1e9, -1.0, 1.0, 2.0, 1e9]))
    assert scores == pytest.approx([1e-4, 1 / (1 + np.e), 0.5, 1 / (1 + np.exp(-2)), 1 - 1e-4])


def test_release_file_is_small_and_says_what_it_is() -> None:
    assert RELEASE_FILE.stat().st_size <= 30_000_000
    file, _ = JudgeFile.load(RELEASE_FILE)
    assert file.about["build"] == "release"
    assert "en" in file.languages


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JudgeFileError, match="no such file; make one with"):
        make_judge(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("at", [0, 0.1, 0.3, 0.9])
def test_damaged_file(tmp_path: Path, at: float) -> None:
    path = tmp_path / "damaged.npz"
    data = bytearray(RELEASE_FILE.read_bytes())
    data[int(at * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(JudgeFileError, match=r"damaged\.npz: "):
        JudgeFile.load(path)


@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_anywhere_is_never_a_crash(tmp_path: Path, bit: int) -> None:
    path = saved(tmp_path, small_file())
    whole = path.read_bytes()
    loaded, version = JudgeFile.load(path)
    for at in range(bit, len(whole), len(whole) // 37):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        try:  # a bit that says nothing, of a date for instance, may flip
            found = JudgeFile.load(path)
        except JudgeFileError:
            continue
        assert found[1] == version
        assert found[0].encoder == loaded.encoder


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_cut_off_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.npz"
    path.write_bytes(RELEASE_FILE.read_bytes()[:size])
    with pytest.raises(JudgeFileError, match="damaged"):
        JudgeFile.load(path)


@pytest.mark.parametrize("name", ["bias", "mix", "onnx"])
def test_changed_arrays_do_not_match_the_manifest(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, small_file())
    arrays = dict(np.load(path))
    arrays[name] = arrays[name] + arrays[name].dtype.type(1)
    np.savez(path, **arrays)
    with pytest.raises(JudgeFileError, match="do not match its manifest"):
        JudgeFile.load(path)


def test_a_reshaped_array_does_not_match_the_manifest(tmp_path: Path) -> None:
    path = saved(tmp_path, small_file())
    arrays = dict(np.load(path))
    arrays["mix"] = arrays["mix"].T
    np.savez(path, **arrays)
    with pytest.raises(JudgeFileError, match="do not match its manifest"):
        JudgeFile.load(path)


@pytest.mark.parametrize("field", ["mix", "threshold", "clear"])
def test_arrays_of_another_shape_are_of_another_version(tmp_path: Path, field: str) -> None:
    file = small_file()
    other = {field: np.concatenate([getattr(file, field)] * 2)}
    with pytest.raises(JudgeFileError, match="made by another version"):
        JudgeFile.load(saved(tmp_path, replace(file, **other)))


def test_other_format_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(shutil.copy(RELEASE_FILE, tmp_path / "old.npz"))
    monkeypatch.setattr(judge_file, "FORMAT", judge_file.FORMAT + 1)
    with pytest.raises(JudgeFileError, match="not of format"):
        JudgeFile.load(path)


def test_a_lone_array_is_no_judge(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(JudgeFileError, match="not a judge file"):
        JudgeFile.load(path)


def test_a_manifest_that_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, manifest=np.frombuffer(json.dumps([2]).encode(), np.uint8))
    with pytest.raises(JudgeFileError, match="not of format"):
        JudgeFile.load(path)


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(JudgeFileError):
        JudgeFile.load(tmp_path)
