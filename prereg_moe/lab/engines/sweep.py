"""The engine that shares: several conditions at once, from where they first differ from the baseline.

A batch of requests runs through the untouched model once. For every (row, condition) pair the routing of
that run says which tokens the condition touches, and where first. What lies before is the baseline's:

* a request none of whose scored tokens sees a touched one has the baseline's value, exactly;
* at the first layer only the touched tokens are computed again, by the routed block alone; the layers
  after it run on the rows that differ, many conditions in a batch, each row under its own mask;
* the head runs on scored positions that changed, and nowhere else, its softmax in float32.

All of it runs in the model's own code under `intervene`'s guards. What is not exact in a model (`probe`)
is not done, down to stock itself, and the evidence says so. Every batch is a function of the plan, the pack
and the registered budget. Memory is bounded by the budget: states of one batch at the layers intervened on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prereg_moe.errors import Problem, Stopped
from prereg_moe.lab.engines.base import Answer, Case, Found, Request
from prereg_moe.lab.engines.cases import Pack, packable
from prereg_moe.lab.engines.ports import Ports, Run
from prereg_moe.lab.engines.probe import Exact, probe
from prereg_moe.lab.engines.rows import Batch, batches, fill, lay_out
from prereg_moe.lab.engines.stock import Stock
from prereg_moe.lab.intervene import Proof, intervene
from prereg_moe.lab.models import MoE, Unsupported

__all__ = ["Sweep", "Work"]

_LOGITS: Final = 1 << 20  # elements computed at once: what a cache holds
Array: TypeAlias = NDArray[Any]
Score: TypeAlias = Callable[[Sequence[Request]], Mapping[Request, Answer]]


@dataclass
class Work:
    """What was computed, in units of one token through one layer, or through the head.

    ``layers`` and ``heads`` are what was done, padding included; ``needed_layers`` and ``needed_heads`` what no
    engine could leave out: distinct tokens whose states the condition changes, where a scored token depends on them.
    """

    layers: int = 0
    heads: int = 0
    needed_layers: int = 0
    needed_heads: int = 0


@dataclass
class _Tally:
    """What one case's proof and record add up."""

    rows: int = 0
    untouched: int = 0
    slots: int = 0
    edited: int = 0


@dataclass(eq=False)
class _Baseline:
    """A batch as the untouched model computes it: what is kept of its states, its touched tokens, its answers."""

    batch: Batch
    run: Run
    touched: dict[int, Tensor]  # layer -> bool (cases, rows, width)
    reached: Tensor  # bool (cases, rows, width)
    values: Array  # log-likelihood of every predicted token
    greedy: Array


@dataclass(eq=False)
class _Answers:
    """Answers under construction: (cases, requests)."""

    values: Array
    greedy: Array
    tallies: list[_Tally] = field(default_factory=list)


class Sweep:
    """Answers requests with everything shared that is exact to share.

    Args:
        moe: the model.
        requests: the planned requests.
        score: HFLM's answers to requests, as the model stands now (`Harness.stock`).
        max_length: most tokens fed to the model at once.
        batch_tokens: most tokens of a batch, padding included.
        check: requests of every case that are computed by stock too.
        tolerance: how far, in nats a request, they may lie apart.

    Attributes:
        exact: what is exact in this model.
        work: what was computed so far.
    """

    def __init__(
        self,
        moe: MoE,
        requests: Sequence[Request],
        score: Score,
        *,
        max_length: int,
        batch_tokens: int,
        check: int,
        tolerance: float,
    ) -> None:
        self._moe, self._requests, self._score = moe, tuple(requests), score
        self._budget, self._check, self._tolerance = batch_tokens, check, tolerance
        self.work = Work()
        self.exact = Exact()
        try:
            self._ports = Ports(moe)
        except Unsupported as error:
            self.exact = Exact(notes=tuple(f"{one.where} {one.found}" for one in error.problems))
            return
        with self._ports:
            self.exact = probe(moe, self._ports, self._requests, max_length)
        self._batches = batches(lay_out(self._requests, max_length, trees=self.exact.trees), batch_tokens)

    def answer(self, cases: Sequence[Case]) -> Iterator[Found]:
        """Yield what was computed for each case of a pack, checked against stock.

        A case that lies farther from stock than the tolerance is computed by stock instead: where two experts'
        router logits nearly tie, another order of additions chooses another expert, and both are the model's answer.
        Where half of a pack or more lies farther, it is not ties.

        Raises:
            Stopped: a guard fired, an answer is not finite, or answers differ from stock's throughout.
        """
        shared = [case for case in cases if self.exact.parts and packable(case)]
        found = list(self._shared(Pack(self._moe, shared, self.exact))) if shared else []
        apart = [self._apart(case, answers) for case, (answers, _, _) in zip(shared, found, strict=True)]
        far = [distance for distance, _ in apart if not distance <= self._tolerance]
        if far and 2 * len(far) >= len(apart):
            what = f"differs from stock by {max(far):.3g} nats on a request, {self._tolerance:g} are allowed"
            raise Stopped(Problem("engine", what, "register engine: {kind: stock}, or a tolerance its dtype can hold"))
        checked = iter(zip(found, apart, strict=True))
        for case in cases:
            if not (self.exact.parts and packable(case)):
                notes = list(self.exact.notes) if packable(case) else ["its operator acts on whole batches"]
                yield from self._alone(case, notes)
                continue
            (answers, proof, record), (distance, flips) = next(checked)
            if distance <= self._tolerance:
                check = {"requests": min(self._check, len(self._requests)), "largest": distance}
                yield Found(answers, proof, {**record, "check": check | ({"flips": flips} if flips else {})})
            else:
                yield from self._alone(case, [f"a request lay {distance:.3g} nats from stock"])

    def _alone(self, case: Case, notes: list[str]) -> Iterator[Found]:
        """Compute a case by stock, and say why."""
        yield from Stock(self._moe, self._requests, self._score, {"computed_by": "stock", "not_shared": notes}).answer(
            [case]
        )

    # -------------------------------------------------------------- the check

    def _apart(self, case: Case, answers: Mapping[Request, Answer]) -> tuple[float, int]:
        """Return how far stock lies from some answers, in nats, and how many it calls greedy and these do not, or back.

        Only the case's digest chooses which answers.
        """
        chosen = [self._requests[number] for number in _chosen(case.digest, len(self._requests), self._check)]
        if case.interventions:
            with intervene(self._moe, *case.interventions):
                stock = self._score(chosen)
        else:
            stock = self._score(chosen)
        flips = sum(stock[one][1] != answers[one][1] for one in chosen)
        return max(abs(stock[one][0] - answers[one][0]) for one in chosen), flips

    # -------------------------------------------------------------- the computation

    @torch.inference_mode()
    def _shared(self, pack: Pack) -> Iterator[tuple[dict[Request, Answer], dict[str, Any] | None, dict[str, Any]]]:
        """Yield answers, proof and record of each case; all of it is computed before the first is given."""
        shape = (len(pack.cases), len(self._requests))
        answers = _Answers(np.zeros(shape), np.zeros(shape, dtype=bool), [_Tally() for _ in pack.cases])
        with self._ports:
            for batch in self._batches:
                self._batch(pack, batch, answers)
        bad = int((~np.isfinite(answers.values)).sum())
        if bad:
            raise Stopped(Problem("model", f"{bad} log-likelihoods are not finite", "nothing was written"))
        for number, case in enumerate(pack.cases):
            given = zip(answers.values[number].tolist(), answers.greedy[number].tolist(), strict=True)
            tally = answers.tallies[number]
            record = {
                "computed_by": "sweep",
                "not_shared": list(self.exact.notes),
                "rows": tally.rows,
                "untouched": tally.untouched,
            }
            proof = self._proof(pack, number, tally).to_dict() if case.interventions else None
            yield dict(zip(self._requests, given, strict=True)), proof, record

    def _proof(self, pack: Pack, number: int, tally: _Tally) -> Proof:
        """Return the proof of one case: each of its rows counts as a forward pass.

        A layer fired for a row if it ran under the mask, or if the routing of the baseline, which is the
        row's own up to there, was found to hold none of the cells.
        """
        plans = pack.plan.layers
        live = [one.min_live[number] for one in plans if one.masked_cells[number]]
        return Proof(
            forwards=tally.rows,
            leaks=0,
            fired=dict.fromkeys(pack.acts(number), tally.rows),
            slots=tally.slots,
            masked_cells=sum(one.masked_cells[number] for one in plans),
            edited_cells=sum(one.edited_cells[number] for one in plans),
            edited_slots=tally.edited,
            min_live=min(live, default=None),
        )

    def _batch(self, pack: Pack, batch: Batch, answers: _Answers) -> None:
        """Answer one batch's requests under every case."""
        base = self._baseline(pack, batch)
        for number, tally in enumerate(answers.tallies):
            self._put(answers, number, batch, slice(None), base.values, base.greedy)
            tally.rows += len(batch.rows)
        for layer, pairs in self._pairs(pack, base, answers):
            for some in fill(batch.lengths[pairs[:, 1]], self._budget):
                self._differ(pack, base, layer, pairs[some], answers)

    def _baseline(self, pack: Pack, batch: Batch) -> _Baseline:
        """Run the untouched model on a batch."""
        everything = torch.arange(len(batch.rows))
        run = Run(
            inputs=frozenset(pack.layers) - self.exact.blocks if self.exact.resumed else frozenset(),
            blocks=frozenset(pack.layers) & self.exact.blocks,
            picks=torch.from_numpy(batch.row * batch.width + batch.place),
        )
        self._forward(run, batch, everything, batch.width)
        self.work.layers += batch.ids.numel() * len(self._ports.layers)
        self.work.needed_layers += int(batch.lengths.sum()) * len(self._ports.layers)
        touched = {layer: pack.touched(layer, run.chosen.get(layer), batch.real) for layer in pack.layers}
        values, greedy = self._head(_given(run.final), batch.pick, batch.target)
        self.work.needed_heads += len(batch.row)
        return _Baseline(batch, run, touched, self._reached(batch, touched, len(pack.cases)), values, greedy)

    def _reached(self, batch: Batch, touched: Mapping[int, Tensor], cases: int) -> Tensor:
        """Return which positions a case changes: those that see a touched token; after the last layer none does."""
        last = len(self._ports.layers) - 1
        changed = torch.zeros(cases, *batch.real.shape, dtype=torch.bool)
        for layer, tokens in touched.items():
            if layer != last or layer not in self.exact.blocks:
                changed |= tokens
        reached = batch.reached(changed) & batch.real
        if not self.exact.causal:
            reached = changed.any(-1, keepdim=True) & batch.real
        return reached | touched[last] if last in touched else reached

    def _pairs(self, pack: Pack, base: _Baseline, answers: _Answers) -> Iterator[tuple[int, Array]]:
        """Yield the first layer that differs, and the (case, row) pairs that first differ there."""
        batch = base.batch
        scored = torch.zeros_like(batch.real)
        scored[batch.row, batch.place] = True
        waiting = (base.reached & scored).any(-1)
        for number, tally in enumerate(answers.tallies):
            tally.untouched += int((~waiting[number]).sum())
        for layer in pack.layers:
            here = waiting & base.touched[layer].any(-1)
            waiting = waiting & ~here
            self._count_needed(base, here, layer, scored)
            if bool(here.any()):
                yield layer, here.nonzero().numpy()

    def _count_needed(self, base: _Baseline, here: Tensor, layer: int, scored: Tensor) -> None:
        """Count what pairs that first differ at a layer cannot do without: in the last one, scored tokens alone."""
        after = len(self._ports.layers) - 1 - layer
        touched = base.touched[layer] if after else base.touched[layer] & scored
        self.work.needed_layers += int(touched[here].sum()) + after * int(base.reached[here].sum())

    def _differ(self, pack: Pack, base: _Baseline, layer: int, pairs: Array, answers: _Answers) -> None:
        """Compute the pairs (case, row), which all first differ at a layer, from there on."""
        batch = base.batch
        cases, rows = torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1])
        width = int(batch.lengths[pairs[:, 1]].max())
        changed = [
            np.flatnonzero(base.reached[case, row, batch.place[batch.cuts[row] : batch.cuts[row + 1]]].numpy())
            + batch.cuts[row]
            for case, row in pairs
        ]
        owner = np.repeat(np.arange(len(pairs)), [len(one) for one in changed])
        picks = np.concatenate(changed)
        where = torch.from_numpy(owner), torch.from_numpy(batch.place[picks])
        last = layer == len(self._ports.layers) - 1
        states: Tensor | None
        if layer in self.exact.blocks:
            states = self._touch(pack, base, layer, cases, rows, width, answers, only=where if last else None)
        else:
            states = None if not self.exact.resumed else base.run.entered[layer][rows, :width]
        if last and layer in self.exact.blocks:
            final: Tensor | None = states
        else:
            start = layer + (layer in self.exact.blocks) if self.exact.resumed else 0
            run = Run(start=start, states=states, picks=where[0] * width + where[1])
            self._under(
                pack,
                start,
                len(self._ports.layers),
                cases,
                answers,
                lambda: self._forward(run, batch, rows, width),
            )
            self.work.layers += len(pairs) * width * (len(self._ports.layers) - start)
            final = run.final
        self._keep(base, pairs, owner, picks, _given(final), answers)

    def _touch(
        self,
        pack: Pack,
        base: _Baseline,
        layer: int,
        cases: Tensor,
        rows: Tensor,
        width: int,
        answers: _Answers,
        only: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Compute a layer's touched tokens again; return what leaves the layer: (pairs, width, hidden).

        With ``only``, (pair, place) of some tokens of the last layer, return their final states: (tokens, hidden).
        """
        run, whole = base.run, (len(base.batch.rows), base.batch.width, -1)
        owner, place = base.touched[layer][cases, rows, :width].nonzero(as_tuple=True) if only is None else only
        at = rows[owner], place
        again = Run(
            start=layer,
            stop=layer + 1,
            states=run.given[layer].view(whole)[at][:, None],
            block=run.rest[layer].view(whole)[at][:, None],
        )
        ids = torch.zeros(len(owner), 1, dtype=torch.long)
        self._under(pack, layer, layer, cases[owner], answers, lambda: self._ports.forward(again, ids))
        self.work.layers += len(owner)
        if only is not None:
            return _given(again.final)
        states = run.left[layer].view(whole)[rows, :width]
        states[owner, place] = again.left[layer][:, 0]
        return states

    def _under(
        self,
        pack: Pack,
        low: int,
        high: int,
        cases: Tensor,
        answers: _Answers,
        forward: Callable[[], Any],
    ) -> None:
        """Run a forward whose rows are under some cases at some layers, and count what its guards checked."""
        with pack.session(low, high) as session:
            if session is None:
                forward()
                return
            listed = cases.tolist()
            session.batch(rows=listed)
            forward()
            for number in set(listed):
                proof = session.proof(number)
                answers.tallies[number].slots += proof.slots
                answers.tallies[number].edited += proof.edited_slots

    def _forward(self, run: Run, batch: Batch, rows: Tensor, width: int) -> None:
        """Run some rows of a batch, cut to a width that holds them."""
        positions, mask = batch.positions(rows, width), batch.mask(rows, width, self._ports.model.dtype)
        self._ports.forward(run, batch.ids[rows, :width], positions=positions, mask=mask)

    def _head(self, states: Tensor, pick: Array, target: Array) -> tuple[Array, Array]:
        """Return the log-likelihood of each predicted token, and whether it is the likeliest.

        Args:
            states: (n, hidden) final states.
            pick: which of them predicts each token.
            target: the tokens.
        """
        values, greedy = np.empty(len(pick)), np.empty(len(pick), dtype=bool)
        order = np.argsort(pick, kind="stable")
        step = max(1, _LOGITS // self._ports.classes)
        for low in range(0, len(states), step):
            logits = self._ports.logits(states[low : low + step])
            inside = order[slice(*np.searchsorted(pick[order], (low, low + step)))]
            at, wanted = (torch.from_numpy(one).to(logits.device) for one in (pick[inside] - low, target[inside]))
            scores, top = logits[at, wanted], logits.amax(-1)
            sure = scores == top[at]
            if bool(sure.any()):  # of equals the first is taken, as stock does
                sure[sure.clone()] = logits[at[sure]].argmax(-1) == wanted[sure]
            total = logits.sub_(top[:, None]).exp_().sum(-1).log_() + top
            values[inside] = (scores - total[at]).double().cpu().numpy()
            greedy[inside] = sure.cpu().numpy()
        self.work.heads += len(states)
        return values, greedy

    def _keep(
        self, base: _Baseline, pairs: Array, owner: Array, picks: Array, final: Tensor, answers: _Answers
    ) -> None:
        """Score the changed positions of some pairs; their other positions keep the baseline's values."""
        batch = base.batch
        found = np.full(len(batch.row), -1)
        bounds = np.searchsorted(owner, np.arange(len(pairs) + 1))
        chosen, index = [], []
        for number, (_, row) in enumerate(pairs):
            mine = slice(bounds[number], bounds[number + 1])
            found[picks[mine]] = np.arange(mine.start, mine.stop)
            tokens = np.arange(batch.ends[row], batch.ends[row + 1])
            tokens = tokens[found[batch.pick[tokens]] >= 0]
            chosen.append(tokens)
            index.append(found[batch.pick[tokens]])
            found[picks[mine]] = -1
        values, greedy = self._head(final, np.concatenate(index), batch.target[np.concatenate(chosen)])
        self.work.needed_heads += len(picks)
        low = 0
        for (case, row), tokens in zip(pairs, chosen, strict=True):
            span = slice(batch.ends[row], batch.ends[row + 1])
            new, sure = base.values.copy(), base.greedy.copy()
            new[tokens], sure[tokens] = values[low : low + len(tokens)], greedy[low : low + len(tokens)]
            low += len(tokens)
            self._put(answers, int(case), batch, span, new[span], sure[span])

    def _put(self, answers: _Answers, case: int, batch: Batch, span: slice, values: Array, greedy: Array) -> None:
        """Sum predicted tokens into their requests' answers."""
        request = batch.request[span]
        first = np.flatnonzero(np.diff(request, prepend=-1))  # a request's tokens stand together
        answers.values[case, request[first]] = np.add.reduceat(values, first)
        answers.greedy[case, request[first]] = np.logical_and.reduceat(greedy, first)


def _chosen(digest: str, requests: int, count: int) -> list[int]:
    """Return the numbers of the requests that stock computes too, a function of the case alone."""
    seed = int.from_bytes(hashlib.sha256(f"check:{digest}".encode()).digest()[:8], "big")
    return sorted(np.random.default_rng(seed).permutation(requests)[:count].tolist())


def _given(states: Tensor | None) -> Tensor:
    if states is None:
        raise TypeError("the head was not reached")
    return states
