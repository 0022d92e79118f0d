"""The conditions of a pack, as tables: where each one acts, and which of a baseline's tokens it touches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from prereg_moe.lab.engines.base import Case
from prereg_moe.lab.engines.probe import Exact
from prereg_moe.lab.intervene import ByRow, Force, Intervention, KeepOnly, Mask, Mean, Scale, Scope, Session
from prereg_moe.lab.intervene.plan import Plan, compile_plan
from prereg_moe.lab.models import MoE

__all__ = ["Pack", "packable"]

_PACKABLE: Final = (Mask, KeepOnly, Scale, Mean, Force)  # what is done to a token does not depend on its batch
_LAZY: Final = (Mask, KeepOnly, Scale)  # what does nothing to a token that selected none of the cells


def packable(case: Case) -> bool:
    """Return whether a case can share batches with others: the same is done to a token in any batch."""
    return all(isinstance(one, _PACKABLE) and one.scope is None for one in case.interventions)


class Pack:
    """Cases computed together.

    Attributes:
        cases: the cases.
        layers: the layers at which any of them acts, ascending.
        plan: what a session of all of them does.
    """

    def __init__(self, moe: MoE, cases: Sequence[Case], exact: Exact) -> None:
        self.cases = tuple(cases)
        self._moe = moe
        self._cells = [_cells(moe, case) for case in cases]
        self.layers = tuple(sorted({layer for cells in self._cells for layer in cells}))
        self._tables = {layer: self._table(layer) for layer in self.layers}
        self._eager = {layer: self._always(layer, exact) for layer in self.layers}
        self._plans: dict[tuple[int, int], Plan] = {}
        self.plan = self._compiled(0, max(moe.indices))

    def acts(self, case: int) -> tuple[int, ...]:
        """Return the layers at which a case acts."""
        return tuple(sorted(self._cells[case]))

    def touched(self, layer: int, chosen: Tensor | None, real: Tensor) -> Tensor:
        """Return which real tokens of a baseline batch each case changes at a layer: bool (cases, rows, width).

        Args:
            layer: a layer at which a case acts.
            chosen: (rows · width, k) experts selected there, None where experts take no indices.
            real: bool (rows, width).
        """
        eager = self._eager[layer]
        if chosen is None:
            return eager[:, None, None] & real
        table = self._tables[layer].to(chosen.device)
        hit = table[:, chosen.clamp(max=table.shape[1] - 1)].any(-1).cpu().view(-1, *real.shape)
        return (hit | eager[:, None, None]) & real

    def session(self, low: int, high: int) -> AbstractContextManager[Session | None]:
        """Return a session of what the cases do at layers ``low`` to ``high``; of nothing where they do nothing."""
        if not any(low <= layer <= high for layer in self.layers):
            return nullcontext()
        return Session(self._moe, self._compiled(low, high), None, None)

    def _compiled(self, low: int, high: int) -> Plan:
        if (low, high) not in self._plans:
            rows = tuple(tuple(_within(one, low, high) for one in case.interventions) for case in self.cases)
            self._plans[low, high] = compile_plan(self._moe, [ByRow(rows)], Scope())
        return self._plans[low, high]

    def _table(self, layer: int) -> Tensor:
        """Return the experts each case names at a layer: bool (cases, classes + 1); the last is no expert."""
        table = torch.zeros(len(self.cases), self._moe.layer(layer).classes + 1, dtype=torch.bool)
        for number, cells in enumerate(self._cells):
            table[number, list(cells.get(layer, ()))] = True
        return table

    def _always(self, layer: int, exact: Exact) -> Tensor:
        """Return which cases may change every token at a layer: bool (cases)."""
        return torch.tensor(
            [
                layer in cells and not all(_lazy(one, layer, self._moe, exact) for one in case.interventions)
                for case, cells in zip(self.cases, self._cells, strict=True)
            ]
        )


def _lazy(operator: Intervention, layer: int, moe: MoE, exact: Exact) -> bool:
    """Return whether an operator leaves every token alone that selected none of its cells at a layer."""
    if moe.layer(layer).takes != "indices" or not isinstance(operator, _LAZY):
        return False
    return isinstance(operator, Scale) or operator.gates == "original" or layer in exact.local


def _cells(moe: MoE, case: Case) -> dict[int, set[int]]:
    """Return the experts a case names, layer by layer, where it names any."""
    cells: dict[int, set[int]] = {}
    for one in case.interventions:
        given: Any = one
        for layer, experts in given.cells.items():
            named = set(experts)
            if isinstance(one, KeepOnly):
                named = set(range(moe.layer(layer).n_experts)) - named
            if named:
                cells.setdefault(layer, set()).update(named)
    return cells


def _within(operator: Intervention, low: int, high: int) -> Intervention:
    """Return the same operator at some of its layers."""
    changeable: Any = operator
    cells = {layer: experts for layer, experts in changeable.cells.items() if low <= layer <= high}
    inside: Intervention = replace(changeable, cells=cells)
    return inside
