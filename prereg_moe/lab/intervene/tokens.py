"""The tokens of one forward pass: which are padding, where each stands, and under which condition.

Routers see rows × width tokens flattened, and nothing else; what a token is must be known from the
call of the model. Padding is read, in this order, from what the caller said with ``session.batch``,
from a two-dimensional attention mask, or from a call that cannot hold any: one row. A batch of
several rows without either, as lm-evaluation-harness sends them, is read as unpadded only where no
row ends with a padding id, or begins as padding would; otherwise it is refused, unless the session was
told what padding is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor

from prereg_moe.errors import Invalid, Problem
from prereg_moe.lab.intervene.guards import Unreadable
from prereg_moe.lab.intervene.operators import Scope

__all__ = ["BatchFacts", "Generation", "Needs", "Padding", "Tokens", "read_tokens"]

_SAY: Final = "call session.batch() before each batch that differs"

Padding: TypeAlias = Literal["none"] | int | None
"""Of batches without a mask: None refuses what may be padded, "none" says nothing is, an id that its last run is."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a session must know of each token, beyond its row."""

    real: bool = False
    positions: bool = False
    segments: bool = False
    key: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class BatchFacts:
    """What the caller said about batches; None where nothing was said."""

    mask: Tensor | None = None  # bool (rows, width)
    lengths: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None
    prompt_lengths: tuple[int, ...] | None = None

    def check_rows(self, rows: int) -> None:
        """Raise Invalid unless everything said is said of ``rows`` rows."""
        for name in ("mask", "lengths", "rows", "labels", "prompt_lengths"):
            value = getattr(self, name)
            if value is not None and len(value) != rows:
                found = f"is given for {len(value)} rows, the batch has {rows}"
                raise Invalid(Problem(f"batch.{name}", found, _SAY))


@dataclass(slots=True, eq=False)
class Generation:
    """A call of ``generate``: the prompt's width, the ids that end a row, whether it was given a mask, and which rows
    have ended.

    A padding id ends a row only where rows may stop at something else than an id: elsewhere a row may say it and go on.
    """

    width: int
    ends: Tensor
    masked: bool = False
    ended: Tensor | None = None

    def running(self, tokens: Tensor, past: int) -> Tensor:
        """Return which rows had not ended before these tokens were fed: bool (rows, 1).

        A row alone stops at its end; in a batch it is fed on until all rows have ended, from its
        beginning where there is no cache. What it is fed then must not count.
        """
        new = tokens[:, max(self.width - past, 0) :]
        ended = torch.isin(new, self.ends.to(new.device)).any(1)
        if past and self.ended is not None:
            ended |= self.ended
        self.ended = ended
        return ~ended[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """The T = rows × width tokens of one forward, row by row. None means: not needed, or all alike."""

    rows: int
    width: int
    real: Tensor | None = None  # bool (T)
    positions: Tensor | None = None  # int (T)
    generated: Tensor | None = None  # bool (T)
    conditions: Tensor | None = None  # int (rows)
    labels: Tensor | None = None  # int (rows)
    key: bytes = b""

    @property
    def count(self) -> int:
        """T."""
        return self.rows * self.width

    def inside(self, scope: Scope, condition: int | None = None) -> Tensor | None:
        """Return which tokens are in scope and under the condition: bool (T), or None for all."""
        parts: list[Tensor] = []
        if scope.positions is not None and self.positions is not None:
            wanted = torch.tensor(scope.positions, device=self.positions.device)
            parts.append(torch.isin(self.positions, wanted))
        if scope.segment != "all" and self.generated is not None:
            parts.append(self.generated if scope.segment == "generated" else ~self.generated)
        if parts and self.real is not None:
            parts.append(self.real)
        if condition is not None and self.conditions is not None:
            parts.append((self.conditions == condition).repeat_interleave(self.width))
        return torch.stack(parts).all(0) if parts else None

    def generator(self, *parts: object) -> torch.Generator:
        """Return a generator seeded by the parts and the batch's tokens."""
        digest = hashlib.blake2b(repr(parts).encode() + self.key, digest_size=8).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)

    def normal(self, source: torch.Generator, width: int) -> Tensor:
        """Return standard normal numbers for each token, whatever torch's default dtype and device: (T, width)."""
        return torch.randn(self.count, width, generator=source, dtype=torch.float32, device="cpu")


def read_tokens(
    call: Mapping[str, Any],
    *,
    needs: Needs,
    facts: BatchFacts,
    conditions: int,
    padding: Padding,
    pad_ids: Sequence[int],
    generation: Generation | None,
) -> Tokens:
    """Return the tokens of a call of the model.

    Args:
        call: the model's arguments by name: input_ids or inputs_embeds, attention_mask, past_key_values.
        needs: what to find out; the rest is left None.
        facts: what the caller said about this batch.
        conditions: how many conditions the session has.
        padding: how to read batches without a mask.
        pad_ids: ids that may be padding.
        generation: the call of ``generate`` this forward is part of.

    Raises:
        Unreadable: padding, positions or segments are needed and cannot be told.
        Invalid: the facts are about another number of rows, or of another width.
    """
    inputs = call.get("input_ids")
    source = inputs if isinstance(inputs, Tensor) else call.get("inputs_embeds")
    if not isinstance(source, Tensor) or source.dim() < 2:
        raise Unreadable(Problem("forward", "has neither input_ids nor inputs_embeds", "call the model with them"))
    rows, width = int(source.shape[0]), int(source.shape[1])
    facts.check_rows(rows)
    of_row = _conditions(facts, rows, conditions)
    device = source.device
    real = positions = generated = None
    if needs.real or needs.positions or needs.segments:
        past = _past(call, width)
        ids = inputs if isinstance(inputs, Tensor) else None
        history = _history(call, ids, rows, past + width, facts, padding, pad_ids, generation).to(device)
        now = history[:, past:]
        places = history.long().cumsum(1)[:, past:] - 1
        if needs.positions or needs.segments:
            _one_text_a_row(call, now)
        if needs.segments:
            generated = _generated(facts, generation, places, past).reshape(-1)
        if generation is not None and ids is not None:
            now = now & generation.running(ids, past)
        real, positions = now.reshape(-1), places.reshape(-1)
    return Tokens(
        rows,
        width,
        real,
        positions,
        generated,
        None if of_row is None else torch.tensor(of_row, device=device),
        None if facts.labels is None else torch.tensor(facts.labels, device=device),
        _key(source, call) if needs.key else b"",
    )


def _conditions(facts: BatchFacts, rows: int, conditions: int) -> tuple[int, ...] | None:
    """Return the condition of each row; None where there is only one."""
    if facts.rows is not None:
        wrong = [one for one in facts.rows if not 0 <= one < conditions]
        if wrong:
            raise Invalid(Problem("batch.rows", f"names condition {wrong[0]}", f"use 0 to {conditions - 1}"))
        return facts.rows if conditions > 1 else None
    if conditions == 1:
        return None
    if rows != conditions:
        found = f"has {rows} rows, there are {conditions} conditions"
        raise Invalid(Problem("batch", found, "say with session.batch(rows=...) which row has which"))
    return tuple(range(rows))


def _past(call: Mapping[str, Any], width: int) -> int:
    """Return how many tokens of each row were fed before this call."""
    mask, cache = call.get("attention_mask"), call.get("past_key_values")
    held = 0 if cache is None else _held(cache)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        past = int(mask.shape[1]) - width
        if held not in {None, past}:
            found = f"has {mask.shape[1]} columns in its mask, {held} tokens in its cache and {width} new ones"
            raise Unreadable(Problem("forward", found, "give the mask one column for each token so far"))
        return past
    if held is None:
        found = f"its cache ({type(cache).__name__}) does not say how many tokens it holds"
        raise Unreadable(Problem("forward", found, "pass an attention mask"))
    return held


def _held(cache: Any) -> int | None:
    """Return how many tokens a cache holds, or None where it does not say."""
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError, IndexError, TypeError):
        return None


def _one_text_a_row(call: Mapping[str, Any], real: Tensor) -> None:
    """Raise Unreadable if position ids begin anew inside a row: places are counted row by row."""
    places = call.get("position_ids")
    if not isinstance(places, Tensor) or places.shape[-1:] != real.shape[-1:] or places.dim() != real.dim():
        return
    back = (places[:, 1:] <= places[:, :-1]) & real[:, 1:] & real[:, :-1]
    if bool(back.any()):
        found = "holds several texts in a row, so where a token stands in its text cannot be told"
        raise Unreadable(Problem("forward", found, "give each text its own row"))


def _history(
    call: Mapping[str, Any],
    ids: Tensor | None,
    rows: int,
    length: int,
    facts: BatchFacts,
    padding: Padding,
    pad_ids: Sequence[int],
    generation: Generation | None,
) -> Tensor:
    """Return which tokens of each row, those fed before included, are real: bool (rows, length)."""
    said = facts.mask
    if facts.lengths is not None:
        wide = length if generation is None else generation.width
        if not all(0 <= one <= wide for one in facts.lengths):
            raise Invalid(Problem("batch.lengths", f"are {list(facts.lengths)}, the batch is {wide} wide", _SAY))
        said = torch.arange(wide)[None] < torch.tensor(facts.lengths)[:, None]
    if said is not None:
        extra = length - said.shape[1]
        if extra < 0 or (extra and generation is None):
            raise Invalid(Problem("batch.mask", f"is {said.shape[1]} tokens wide, the batch {length}", _SAY))
        return torch.cat([said, torch.ones(rows, extra, dtype=torch.bool, device=said.device)], 1)
    mask = call.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask.bool()
    if mask is not None:
        found = "has an attention mask that is not (rows, tokens), so padding cannot be told"
        raise Unreadable(Problem("forward", found, "say with session.batch(mask=...) which tokens are real"))
    everything = torch.ones(rows, length, dtype=torch.bool)
    past = length if ids is None else length - ids.shape[1]
    if rows == 1 or padding == "none":
        return everything
    if generation is not None and generation.masked:
        return everything  # transformers leaves out a mask of ones
    if ids is not None and ids.shape[1] == length and isinstance(padding, int):
        everything = (ids != padding).flip(1).cumsum(1).flip(1) > 0
    elif ids is None or _may_be_padded(ids, pad_ids, ids.shape[1] if generation is None else generation.width - past):
        found = "has several rows, no attention mask, and what may be padding"
        todo = "pass a mask, say session.batch(lengths=...), or set intervene(padding=...)"
        raise Unreadable(Problem("forward", found, todo))
    return everything


def _may_be_padded(ids: Tensor, pad_ids: Sequence[int], width: int) -> bool:
    """Return whether a row's first ``width`` ids end with a padding id, or begin with one that not all begin with, or
    with two."""
    if width < 1:
        return False  # what was generated is no padding
    ids = ids[:, :width]
    pads = torch.tensor(list(pad_ids), device=ids.device)
    ends, begins = torch.isin(ids[:, -1], pads), torch.isin(ids[:, 0], pads)
    twice = begins & (ids[:, 0] == ids[:, min(1, ids.shape[1] - 1)])
    return bool(ends.any() | (begins.any() & ~begins.all()) | (twice.any() if ids.shape[1] > 1 else False))


def _generated(facts: BatchFacts, generation: Generation | None, places: Tensor, past: int) -> Tensor:
    """Return which tokens stand after their row's prompt: bool (rows, width)."""
    if facts.prompt_lengths is not None:
        return places >= torch.tensor(facts.prompt_lengths, device=places.device)[:, None]
    if generation is None:
        found = "is not part of generate(), so where the prompt ends cannot be told"
        raise Unreadable(Problem("forward", found, "say session.batch(prompt_lengths=...)"))
    columns = past + torch.arange(places.shape[1], device=places.device)
    return (columns >= generation.width).expand_as(places)


def _key(source: Tensor, call: Mapping[str, Any]) -> bytes:
    """Return a digest of a batch's tokens."""
    data = source.detach().cpu().contiguous()
    data = data.view(torch.uint8) if data.is_floating_point() else data.long()
    digest = hashlib.blake2b(data.numpy().tobytes(), digest_size=16)
    digest.update(repr((tuple(source.shape), _past(call, int(source.shape[1])))).encode())
    return digest.digest()
