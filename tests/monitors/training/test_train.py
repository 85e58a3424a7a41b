"""Training end to end, of a few rows: resumable, seeded, and what it writes is a judge."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from monitors.judges.base import Passage
from monitors.judges.embedded import EmbeddedJudge
from monitors.taxonomy import Stage
from tests.monitors.training.small_corpus import INTERNAL, NEVER_SEEN, write

pytestmark = [pytest.mark.train, pytest.mark.timeout(900)]


def test_trains_resumes_and_judges(tmp_path: Path) -> None:
    from monitors.training import network, train
    from monitors.training.fit import Settings

    data = write(tmp_path)
    plan = train.Plan(
        base=64,
        thinking={"release": 48},
        fold={"release": 32},
        grid=60,
        linear=Settings(folds=2, iterations=5),
        sampled=2,
    )
    out, work, said = tmp_path / "judge.npz", tmp_path / "work", list[str]()

    def run(to: Path, kept: Path, *, control: bool = False) -> None:
        say = said.append
        train.run(data, "release", to, work=kept, seed=3, control=control, say=say, plan=plan)

    run(out, work)
    judge = EmbeddedJudge.load(out)
    verdicts = judge.score([Passage(Stage.REASONING, "We bake the bread now.", "Tell me.")] * 2)
    assert verdicts[0].unsafe == verdicts[1].unsafe is not None
    assert judge.about["left_out"].keys() == {INTERNAL, NEVER_SEEN}
    assert out.stat().st_size < 30_000_000
    assert any("fold" in line for line in said)

    with gzip.open(out.with_suffix(".oof.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file]
    assert rows and all(len(row["steps"]) == len(row["chars"]) for row in rows)
    assert str(tmp_path) not in json.dumps([judge.about, rows])

    # The control learns in the same way and is measured on the same steps, masked.
    run(tmp_path / "control.npz", work, control=True)
    with gzip.open(tmp_path / "control.oof.jsonl.gz", "rt") as file:
        masked = [json.loads(line) for line in file]
    assert [(m["id"], m["chars"], m["onset"]) for m in masked] == [
        (row["id"], row["chars"], row["onset"]) for row in rows
    ]
    assert [m["steps"] for m in masked] != [row["steps"] for row in rows]
    assert EmbeddedJudge.load(tmp_path / "control.npz").about["control"]

    # What is kept is not made anew; what lacks is, and comes out the same.
    (final,) = (f for f in work.glob("*/release-final.pt") if "control" not in f.parent.name)
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*") if path.is_file()}
    first = out.read_bytes()
    final.unlink()
    run(out, work)
    changed = {path.name for path, at in before.items() if path.stat().st_mtime_ns != at}
    assert changed == {final.name, "seconds.json"}, "what a part took is added up"
    assert json.loads((final.parent / "seconds.json").read_text())["release-final"] > 0
    again, _ = network.new_encoder(3), out.read_bytes()
    assert again is not None
    assert len(out.read_bytes()) == pytest.approx(len(first), rel=0.01)


def test_a_checkpoint_goes_on_where_it_stopped(tmp_path: Path) -> None:
    import torch

    from monitors.training import network
    from monitors.training.corpus import load
    from monitors.training.curriculum import draws

    examples = load(write(tmp_path), "train", "release").examples
    bags = draws(examples, "base", 160, seed=0)
    recipe = network.Recipe(rate=1e-4, tokens=512, keep=2)

    class CutError(Exception):
        pass

    def stop(share: float) -> None:
        if share > 0.5:
            raise CutError

    through, cut_off = network.new_encoder(0), network.new_encoder(0)
    file = tmp_path / "a.checkpoint"
    network.learn(through, bags, recipe, seed=0, checkpoint=file, step=lambda share: None)
    with pytest.raises(CutError):
        network.learn(cut_off, bags, recipe, seed=0, checkpoint=file, step=stop)
    assert file.exists()
    fresh = network.new_encoder(0)
    shares = list[float]()
    network.learn(fresh, bags, recipe, seed=0, checkpoint=file, step=shares.append)
    assert len(shares) > 0 and shares[0] > 0.25 and not file.exists()
    for (name, one), (_, two) in zip(
        through.state_dict().items(), fresh.state_dict().items(), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-4), name


def test_the_export_gives_what_the_encoder_gives() -> None:
    import numpy as np
    import torch

    from monitors.judges.encoder import Encoder
    from monitors.training import export, network

    trained = network.new_encoder(0).eval()
    judge = Encoder(export.onnx_of(trained), export.tokenizer_bytes())
    passage = Passage(
        Stage.REASONING, "We will bake the bread. " * 80, "How?", ("First the flour.",)
    )
    pieces = network.layout().pieces(passage)
    assert len(pieces) > 2
    with torch.inference_mode():
        wanted = [
            trained(torch.tensor([piece.ids]), torch.tensor([piece.types]))[0].numpy()
            for piece in pieces
        ]
    found = judge.logits(passage)
    assert found.shape == np.shape(wanted)
    assert np.abs(found - wanted).max() < 0.25  # eight bits


def test_levers_are_measured_beside_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitors.errors import UserError
    from monitors.measure import levers
    from monitors.training import corpus, network, train
    from monitors.training.fit import Settings

    few = corpus.PAIRS.read_text("utf-8").splitlines(keepends=True)[:12]
    (tmp_path / "pairs.jsonl").write_text("".join(few), "utf-8")
    monkeypatch.setattr(corpus, "PAIRS", tmp_path / "pairs.jsonl")
    data, out = write(tmp_path), tmp_path / "levers.json"
    often = network.Recipe(rate=6e-5, keep=1, frozen=2)  # a checkpoint after every batch
    plan = train.Plan(
        base=32, lever=24, grid=20, linear=Settings(folds=2, iterations=5), fold_recipe=often
    )

    def run(only: list[str]) -> None:
        levers.run(data, out, work=tmp_path, seed=1, only=only, say=lambda _: None, plan=plan)

    run(["no pairs"])
    found = json.loads(out.read_text())["levers"]
    assert list(found) == [levers.REFERENCE, "no pairs"]
    of = {
        name: next(
            row
            for row in lever["tables"]["pairs"]
            if (row["row"], row["figure"]) == ("pairs", "AUROC, mean of top 3 steps")
        )
        for name, lever in found.items()
    }
    reference, moved = of.values()
    assert reference["lead"] == [0.0, 0.0, 0.0]
    assert moved["lead"][0] == pytest.approx(moved["judge"][0] - reference["judge"][0], abs=0.11)
    run(["release: no re-voicing"])
    found = json.loads(out.read_text())["levers"]
    assert list(found)[-1] == "no pairs", "what was not repeated stays"
    beside = {name: lever["beside"] for name, lever in found.items()}
    assert beside == {
        "reference": "reference",
        "no pairs": "reference",
        "release: reference": "release: reference",
        "release: short first phase": "release: reference",
        "release: no re-voicing": "release: short first phase",
    }
    with pytest.raises(UserError, match="no lever 'magic'; there are: reference, "):
        run(["magic"])
