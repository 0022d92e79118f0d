"""How requests are laid out as rows of tokens, and rows as batches: functions of the plan and a token budget.

A plain row is one request: its context and all of its continuation but the last token. A tree row holds
several continuations of one context: the trunk is the context, and each branch sees the trunk and itself
only (a mask) and stands where it would stand alone (position ids). The first token of every continuation
is predicted by the trunk's last token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prereg_moe.lab.engines.base import Request

__all__ = ["Batch", "Row", "batches", "lay_out"]


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens fed together.

    Attributes:
        ids: the tokens.
        requests: numbers of the requests it answers.
        continuations: of each request, the tokens predicted.
        starts: where each request's branch starts; empty for a plain row.
        trunk: tokens of the shared context; all of a plain row.
    """

    ids: tuple[int, ...]
    requests: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    trunk: int

    def scored(self) -> Iterator[tuple[int, list[int]]]:
        """Yield each request's number and the positions that predict its continuation, in order."""
        if not self.starts:
            count = len(self.continuations[0])
            yield self.requests[0], list(range(len(self.ids) - count, len(self.ids)))
            return
        for number, start, tokens in zip(self.requests, self.starts, self.continuations, strict=True):
            yield number, [self.trunk - 1, *range(start, start + len(tokens) - 1)]


def lay_out(requests: Sequence[Request], max_length: int, *, trees: bool) -> list[Row]:
    """Return the rows that answer the requests, each request in one row.

    A context is shared where ``trees`` allows it, several requests have it and it is longer than the
    longest of their continuations. A request longer than ``max_length`` + 1 is cut on the left, as HFLM does.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(requests):
        groups.setdefault(context, []).append(number)
    rows = []
    for context, numbers in groups.items():
        tails = [requests[number][1] for number in numbers]
        longest = max(map(len, tails))
        if trees and len(tails) > 1 and len(context) > longest and len(context) + longest <= max_length + 1:
            rows.append(_tree(context, numbers, tails))
        else:
            rows += [_plain(context, number, tail, max_length) for number, tail in zip(numbers, tails, strict=True)]
    return rows


def _plain(context: tuple[int, ...], number: int, tail: tuple[int, ...], max_length: int) -> Row:
    ids = (context + tail)[-(max_length + 1) :][:-1]
    return Row(ids, (number,), (tail,), (), len(ids))


def _tree(context: tuple[int, ...], numbers: list[int], tails: list[tuple[int, ...]]) -> Row:
    ids, starts = list(context), []
    for tail in tails:
        starts.append(len(ids))
        ids += tail[:-1]
    return Row(tuple(ids), tuple(numbers), tuple(tails), tuple(starts), len(context))


class Batch:
    """Rows of one kind, padded on the right to the longest.

    Attributes:
        rows: the rows.
        ids: (rows, width) token ids, padding 0.
        lengths: tokens of each row.
        row, place: of every distinct scored position, its row and its place there; ascending.
        pick, target, request: of every predicted token, its scored position, its id and its request's number.
        cuts: row r's scored positions are ``cuts[r]`` to ``cuts[r + 1]``; ``ends`` says the same of predicted tokens.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.lengths = np.array([len(row.ids) for row in rows])
        self.width = int(self.lengths.max())
        self.tree = bool(rows[0].starts)
        self.ids = torch.zeros(len(rows), self.width, dtype=torch.long)
        for number, row in enumerate(rows):
            self.ids[number, : len(row.ids)] = torch.tensor(row.ids)
        self._score()

    def _score(self) -> None:
        of_row: list[int] = []
        place: list[int] = []
        pick: list[int] = []
        target: list[int] = []
        request: list[int] = []
        self.cuts, self.ends = [0], [0]
        for number, row in enumerate(self.rows):
            scored = list(row.scored())
            places = sorted({one for _, where in scored for one in where})
            index = {one: len(place) + offset for offset, one in enumerate(places)}
            for (asked, where), tokens in zip(scored, row.continuations, strict=True):
                pick += [index[one] for one in where]
                target += tokens[-len(where) :] if len(where) < len(tokens) else tokens
                request += [asked] * len(where)
            place += places
            of_row += [number] * len(places)
            self.cuts.append(len(place))
            self.ends.append(len(pick))
        self.row, self.place = np.array(of_row), np.array(place)
        self.pick, self.target, self.request = np.array(pick), np.array(target), np.array(request)

    @cached_property
    def real(self) -> Tensor:
        """Which positions are not padding: bool (rows, width)."""
        return torch.arange(self.width)[None] < torch.from_numpy(self.lengths)[:, None]

    @cached_property
    def _branches(self) -> tuple[Tensor, Tensor]:
        """Of every position, where its branch starts (0 on the trunk) and the length of its trunk if it is a branch."""
        start = torch.zeros(len(self.rows), self.width, dtype=torch.long)
        trunk = torch.zeros_like(start)
        for number, row in enumerate(self.rows):
            for begin, tail in zip(row.starts, row.continuations, strict=True):
                start[number, begin : begin + len(tail) - 1] = begin
                trunk[number, begin : begin + len(tail) - 1] = row.trunk
        return start, trunk

    def positions(self, rows: Tensor, width: int) -> Tensor | None:
        """Return position ids (rows, width) of some rows of trees; None for plain rows, where they count up."""
        if not self.tree:
            return None
        start, trunk = (one[rows, :width] for one in self._branches)
        return torch.arange(width)[None] - start + trunk

    def mask(self, rows: Tensor, width: int, dtype: torch.dtype) -> Tensor | None:
        """Return the additive attention mask (rows, 1, width, width) of some rows of trees; None for plain rows."""
        if not self.tree:
            return None
        start, trunk = (one[rows, :width] for one in self._branches)
        key = torch.arange(width)[None, None]
        seen = (key <= torch.arange(width)[None, :, None]) & ((key >= start[..., None]) | (key < trunk[..., None]))
        return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

    def reached(self, changed: Tensor) -> Tensor:
        """Return which positions see a changed one or are one: bool (..., rows, width), as ``changed``."""
        count = changed.long().cumsum(-1)
        if not self.tree:
            return count > 0
        count = torch.nn.functional.pad(count, (1, 0))
        start, trunk = (one.expand(changed.shape) for one in self._branches)
        return count[..., 1:] - count.gather(-1, start) + count.gather(-1, trunk) > 0


def batches(rows: Sequence[Row], budget: int) -> list[Batch]:
    """Return the rows in batches of at most ``budget`` tokens, padding included, and of one row at least.

    Longest first; rows of one length keep their order. Plain and tree rows stand apart.
    """
    plain = [row for row in rows if not row.starts]
    trees = [row for row in rows if row.starts]
    return [
        Batch([kind[number] for number in numbers])
        for kind in (plain, trees)
        for numbers in fill([len(row.ids) for row in kind], budget)
    ]


def fill(lengths: Iterable[int], budget: int) -> list[NDArray[np.int64]]:
    """Return the numbers of rows in groups of at most ``budget`` padded tokens, longest first."""
    sizes = np.array(list(lengths), dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    groups, low = [], 0
    while low < len(order):
        high = low + max(1, budget // max(1, int(sizes[order[low]])))  # the first of a group is its longest
        groups.append(order[low:high])
        low = high
    return groups
