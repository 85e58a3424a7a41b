"""Long documents as people paste them, with and without a request between their paragraphs.

Rows of the corpus are short: a judge that saw nothing else takes manuals, licences and source code
for harm. Every document comes by itself, as a request and as an answer, and with requests of the
corpus in it, as many harmful as harmless ones, so that neither its length nor what it is about
tells the label. All documents are our own writing (Apache-2.0); requests bring their licences.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from monitors.judges.base import Passage
from monitors.taxonomy import Stage
from monitors.training.corpus import DOCUMENTS, IN_DOCUMENTS, OWN, STATEMENTS, Example, Split, rows

_DEV = 6  # one in so many documents is for measuring
_REQUESTS = 2  # of each label, put into each document
_SHORTEST, _LONGEST = 20, 400  # characters of such a request


@dataclass(slots=True, frozen=True)
class _Document:
    id: str
    kind: str
    ask: str
    ask_after: bool
    text: str


def documents(examples: Iterable[Example], split: Split, seed: int) -> Iterator[Example]:
    """The documents of a split: safe by themselves, with requests of `examples` as safe as those.

    A document with a request in it has that one's group, licence and scenario.
    """
    asked = [e for e in examples if _is_request(e)]
    harmful = [e for e in asked if e.unsafe]
    harmless = [e for e in asked if not e.unsafe]
    for document in _documents(split):
        draw = random.Random(f"{document.id} {seed}")
        yield from _alone(document)
        for requests in (harmful, harmless) if harmful and harmless else ():
            for request in draw.sample(requests, min(_REQUESTS, len(requests))):
                text = _with(document, request.passage.text.strip(), draw)
                passage = Passage(Stage.INPUT, text)
                contrast = not request.unsafe
                yield replace(request, passage=passage, source=IN_DOCUMENTS, contrast=contrast)


def _documents(split: Split) -> Iterator[_Document]:
    for row in rows(DOCUMENTS):
        if (zlib.crc32(str(row["id"]).encode()) % _DEV == 0) == (split == "dev"):
            yield _Document(row["id"], row["kind"], row["ask"], row["ask_after"], row["text"])


def _alone(document: _Document) -> Iterator[Example]:
    parts = (document.text, document.ask) if document.ask_after else (document.ask, document.text)
    pasted = Example(
        passage=Passage(Stage.INPUT, "\n\n".join(filter(None, parts))),
        unsafe=False,
        source=IN_DOCUMENTS,
        group=document.id,
        licence=OWN,
        contrast=True,
    )
    yield pasted
    request = f"Write an example of this: {document.kind}"
    yield replace(pasted, passage=Passage(Stage.ANSWER, document.text, request=request))


def _with(document: _Document, request: str, draw: random.Random) -> str:
    """The document with the request before it, behind it, or between two of its lines."""
    lines = document.text.split("\n")
    at = draw.choice([0, len(lines), draw.randrange(len(lines))])
    return "\n".join([*lines[:at], "", request, "", *lines[at:]]).strip()


def _is_request(example: Example) -> bool:
    return (
        example.passage.stage is Stage.INPUT
        and example.lang == "en"
        and _SHORTEST <= len(example.passage.text) <= _LONGEST
        and example.source not in STATEMENTS
    )
