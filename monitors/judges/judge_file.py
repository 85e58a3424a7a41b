"""The embedded judge's file: everything that it needs to judge, whole or refused.

An .npz whose manifest holds the digest of every array beside it; `monitors.training` writes it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from monitors.errors import JudgeFileError
from monitors.judges.layout import SCENARIOS, STAGES
from monitors.judges.linear import BUCKETS, HEADS, SCENARIO_WORDS, Floats, LinearModel

FORMAT = 3
RELEASE_FILE = Path(__file__).parent / "data" / "embedded-release.npz"

FEATURES = 4
"""What `mix` weighs: encoder unsafe, linear, stance (fulfilling less refusing), and 1."""

LINEAR_AS_IT_IS = np.tile(np.array([1, 0], np.float32), (len(STAGES), 1))
"""The `alone` of a file without an encoder."""

_CLAMP = 1e-4
_SHAPES = {
    "bias": (len(STAGES),),
    "scenario_bias": (len(SCENARIOS),),
    "mix": (len(STAGES), FEATURES),
    "alone": (len(STAGES), 2),
    "threshold": (len(STAGES),),
    "slope": (len(STAGES),),
    "rise": (len(STAGES),),
    "clear": (len(STAGES),),
}


class EncoderParts(NamedTuple):
    """An encoder as files hold it: its ONNX graph, and its tokenizer's JSON."""

    onnx: bytes
    tokenizer: bytes


@dataclass(slots=True, frozen=True)
class JudgeFile:
    """Both tiers and their calibration; arrays hold a row per stage.

    `alone`: slope and offset that put the linear logit into the scale of `mix`, for text in scripts
    that the encoder cannot read.
    `clear`: where the linear logit is lower the encoder is not asked; -inf never clears.
    `languages`: ISO 639-1 codes of what it was trained on. `alphabet`: the characters beyond ASCII
    that training showed. `encoder`: absent only so that the linear tier can be measured alone.
    """

    linear: LinearModel
    encoder: EncoderParts | None
    mix: Floats
    alone: Floats
    threshold: Floats
    slope: Floats
    rise: Floats
    clear: Floats
    alphabet: str
    languages: tuple[str, ...]
    about: Mapping[str, Any]

    @classmethod
    def of_linear(cls, linear: LinearModel, alphabet: str) -> Self:
        """The linear tier alone, uncalibrated."""
        return cls(
            linear=linear,
            encoder=None,
            mix=np.zeros((len(STAGES), FEATURES), np.float32),
            alone=LINEAR_AS_IT_IS,
            threshold=np.zeros(len(STAGES), np.float32),
            slope=np.ones(len(STAGES), np.float32),
            rise=np.ones(len(STAGES), np.float32),
            clear=np.full(len(STAGES), -np.inf, np.float32),
            alphabet=alphabet,
            languages=(),
            about={},
        )

    def calibrated(self, stage: int, logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The scores of a stage: 0.5 at its threshold; below, `slope`; above, `rise`.

        Clamped, so that a judge which is not certain never says so.
        """
        above = np.asarray(logits, np.float64) - self.threshold[stage]
        steep = above * np.where(above > 0, self.rise[stage], self.slope[stage])
        unsafe = np.clip(1 / (1 + np.exp(-np.clip(steep, -30, 30))), _CLAMP, 1 - _CLAMP)
        return np.asarray(unsafe, np.float64)

    def save(self, path: Path) -> None:
        """Write the file; the same judge gives the same bytes."""
        arrays: dict[str, Any] = {
            **_packed("unsafe", self.linear.unsafe),
            **_packed("scenario", self.linear.scenario),
            "bias": self.linear.bias,
            "scenario_bias": self.linear.scenario_bias,
            "mix": self.mix,
            "alone": self.alone,
            "threshold": self.threshold,
            "slope": self.slope,
            "rise": self.rise,
            "clear": self.clear,
            "alphabet": np.array([ord(char) for char in self.alphabet], dtype=np.uint32),
        }
        if self.encoder is not None:
            arrays["onnx"] = np.frombuffer(self.encoder.onnx, np.uint8)
            arrays["tokenizer"] = np.frombuffer(self.encoder.tokenizer, np.uint8)
        manifest = {
            "format": FORMAT,
            "about": dict(self.about),
            "languages": list(self.languages),
            "sha256": {name: _digest(array) for name, array in arrays.items()},
        }
        text = json.dumps(manifest, sort_keys=True).encode()
        with path.open("wb") as file:
            np.savez_compressed(file, manifest=np.frombuffer(text, np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path) -> tuple[Self, str]:
        """The judge and its version (hash of the manifest, which holds those of all arrays).

        Raises JudgeFileError.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            text = arrays.pop("manifest").tobytes()
            manifest = json.loads(text)
        except FileNotFoundError as error:
            raise unloadable(path, "no such file") from error
        except Exception as error:  # a flipped bit makes zip and header readers raise anything
            raise unloadable(path, "damaged, or not a judge file") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise unloadable(path, f"not of format {FORMAT}, which this version reads")
        if manifest.get("sha256") != {name: _digest(array) for name, array in arrays.items()}:
            raise unloadable(path, "damaged: its contents do not match its manifest")
        try:
            return cls._of(arrays, manifest), hashlib.sha256(text).hexdigest()[:8]
        except (KeyError, TypeError, ValueError) as error:
            raise unloadable(path, "made by another version of mlrm-guard") from error

    @classmethod
    def _of(cls, arrays: dict[str, NDArray[Any]], manifest: dict[str, Any]) -> Self:
        for name, shape in _SHAPES.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name}: {arrays[name].shape}, expected {shape}")
        linear = LinearModel(
            unsafe=_unpacked("unsafe", arrays, (BUCKETS, len(set(HEADS.values())))),
            bias=arrays.pop("bias"),
            scenario=_unpacked("scenario", arrays, (SCENARIO_WORDS, len(SCENARIOS))),
            scenario_bias=arrays.pop("scenario_bias"),
        )
        encoder = None
        if "onnx" in arrays:
            encoder = EncoderParts(arrays.pop("onnx").tobytes(), arrays.pop("tokenizer").tobytes())
        return cls(
            linear=linear,
            encoder=encoder,
            alphabet="".join(map(chr, arrays.pop("alphabet"))),
            languages=tuple(manifest["languages"]),
            about=manifest["about"],
            **arrays,
        )


def unloadable(path: Path, problem: str) -> JudgeFileError:
    """What is wrong with a judge file, and what to do."""
    remedy = (
        "reinstall mlrm-guard"
        if path == RELEASE_FILE
        else "make one with `mlrm-guard judge train`, or use the shipped one: `embedded`"
    )
    return JudgeFileError(f"judge file {path}: {problem}; {remedy}")


def _packed(name: str, weights: Floats) -> dict[str, NDArray[Any]]:
    """Eight bits a weight, finer near zero, where nearly all of them lie: signed roots."""
    peak = np.maximum(np.abs(weights).max(axis=0), 1e-12).astype(np.float32)
    codes = np.rint(127 * np.sign(weights) * np.sqrt(np.abs(weights) / peak)).astype(np.int8)
    # Column by column: runs of like values compress better.
    return {f"{name}_codes": np.ascontiguousarray(codes.T), f"{name}_peak": peak}


def _unpacked(name: str, arrays: dict[str, NDArray[Any]], shape: tuple[int, int]) -> Floats:
    codes = arrays.pop(f"{name}_codes").T.astype(np.float32) / 127
    if codes.shape != shape:
        raise ValueError(f"{name}: {codes.shape}, expected {shape}")
    return np.ascontiguousarray(codes * np.abs(codes) * arrays.pop(f"{name}_peak"))


def _digest(array: NDArray[Any]) -> str:
    found = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
