"""Put interventions on a model for a while, and prove that they happened.

Inside a session the router and the experts of every layer concerned run through a wrapper of ours;
afterwards, whatever happened, the model is as it was. On every forward pass:

* no masked expert is among the selected, every forced one is, every gate is finite (`Leak`, `NotFinite`);
* every layer concerned ran its router and its experts exactly once (`NeverFired`);
* everything the session installed is still there (`HooksLost`).

`Session.proof` counts what was checked. It is a function of the batches alone.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor, nn

from prereg_moe.errors import Invalid, Problem
from prereg_moe.lab.intervene.guards import HooksLost, Nested, NeverFired, Unreadable
from prereg_moe.lab.intervene.operators import ByRow, Intervention, Scope
from prereg_moe.lab.intervene.plan import Plan, compile_plan
from prereg_moe.lab.intervene.tokens import BatchFacts, Generation, Needs, Padding, Tokens, read_tokens
from prereg_moe.lab.intervene.watched import Watched
from prereg_moe.lab.models.discovery import check_runs_as_written

if TYPE_CHECKING:
    from types import TracebackType

    from prereg_moe.lab.capture import Recorder
    from prereg_moe.lab.models import MoE, MoELayer

__all__ = ["Proof", "Session", "intervene"]

_ACTIVE: Final[weakref.WeakSet[nn.Module]] = weakref.WeakSet()
_DRAFTS: Final = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp", "penalty_alpha")
_CALL_ONCE: Final = "call the model itself, not a part of it, and load it without fused or compiled blocks"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was checked while a session ran, for one condition.

    Args:
        forwards: forward passes that held rows of the condition.
        leaks: masked experts selected; always 0, or the session would have stopped.
        fired: {decoder layer: forwards in which its router and experts ran under the session}.
        slots: selected slots checked, padding included.
        masked_cells: (layer, expert) cells masked.
        edited_cells: cells whose contribution is changed.
        edited_slots: slots whose contribution was changed, padding included.
        min_live: fewest classes a router that is masked chooses from; None where none is.
    """

    forwards: int
    leaks: int
    fired: Mapping[int, int]
    slots: int
    masked_cells: int
    edited_cells: int
    edited_slots: int
    min_live: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as JSON; layers are strings, as JSON keys are."""
        return {
            "forwards": self.forwards,
            "leaks": self.leaks,
            "fired": {str(layer): count for layer, count in self.fired.items()},
            "slots": self.slots,
            "masked_cells": self.masked_cells,
            "edited_cells": self.edited_cells,
            "edited_slots": self.edited_slots,
            "min_live": self.min_live,
        }


def intervene(
    moe: MoE,
    *interventions: Intervention | ByRow,
    recorder: Recorder | None = None,
    scope: Scope | None = None,
    padding: Padding = None,
) -> Session:
    """Return a session: ``with intervene(moe, Mask({3: [1, 2]})) as session: model(...)``.

    Args:
        moe: what `discover` found.
        interventions: operators, in any order, and at most one `ByRow`.
        recorder: adds up the routing of all routed layers.
        scope: the scope of operators that have none of their own.
        padding: how to read batches of several rows without attention mask, where padding matters:
            None refuses those that may be padded, "none" says there is none, an id says that the run
            of it at a row's end is padding.

    Raises:
        Invalid: the interventions contradict each other or the model.
        Unsupported: a layer cannot do exactly what is asked.
        Starved: a router could be left with fewer than k experts.
    """
    return Session(moe, compile_plan(moe, interventions, scope or Scope()), recorder, padding)


@dataclass(eq=False)
class _Counts:
    """What one condition's proof adds up."""

    forwards: int = 0
    slots: int = 0
    edited_slots: int = 0
    fired: dict[int, int] = field(default_factory=dict)


class Session:
    """Interventions and a recorder on a model, between ``with`` and its end. Made by `intervene`."""

    def __init__(self, moe: MoE, plan: Plan, recorder: Recorder | None, padding: Padding) -> None:
        self._moe = moe
        self._plan = plan
        self.recorder = recorder
        self._padding = padding
        needs = plan.needs
        sink = recorder is not None and recorder.sink is not None
        self._needs = Needs(needs.real or recorder is not None, needs.positions or sink, needs.segments, needs.key)
        self._facts = BatchFacts()
        self._generation: Generation | None = None
        self._patches: list[_Patch] = []
        self._layers: list[Watched] = []
        self._counts = [_Counts() for _ in range(plan.conditions)]
        self._met = dict.fromkeys(plan.scopes, 0)
        self._tokens: Tokens | None = None
        self._running = threading.Lock()
        self.forwards = 0
        self.conditions = plan.conditions
        self._open = self._entered = False

    def batch(
        self,
        *,
        mask: Any = None,
        lengths: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> None:
        """Say what the following batches hold, until it is said anew; everything unsaid is forgotten.

        Args:
            mask: bool (rows, width), true for tokens that are not padding. It goes before attention masks.
            lengths: instead of a mask, how many tokens of each row are not padding, which stands at the end.
            rows: the condition of each row.
            labels: the recorder's group of each row.
            prompt_lengths: how many tokens of each row, padding not counted, are its prompt.

        Raises:
            Invalid: mask and lengths, a mask that is not boolean and two-dimensional, or an unknown group.
        """
        said = None if mask is None else torch.as_tensor(mask)
        if said is not None and (said.dtype != torch.bool or said.dim() != 2 or lengths is not None):
            raise Invalid(Problem("batch.mask", "is not one mask", "give bool (rows, width), or lengths"))
        groups = 1 if self.recorder is None else self.recorder.groups
        if labels is not None and not all(0 <= one < groups for one in labels):
            raise Invalid(Problem("batch.labels", f"are {list(labels)}", f"use 0 to {groups - 1}"))
        self._facts = BatchFacts(
            said,
            *(None if one is None else tuple(int(i) for i in one) for one in (lengths, rows, labels, prompt_lengths)),
        )

    def proof(self, condition: int = 0) -> Proof:
        """Return what was checked so far, for one condition.

        Raises:
            NeverFired: no forward held the condition, a layer was not reached, or no token was in scope.
            HooksLost: what the session installed is gone.
            Invalid: there is no such condition.
        """
        if not 0 <= condition < self.conditions:
            raise Invalid(Problem(f"condition {condition}", "does not exist", f"use 0 to {self.conditions - 1}"))
        if self._open:
            self._verify()
        counts = self._counts[condition]
        acting = [one.plan for one in self._layers]
        if not counts.forwards:
            raise NeverFired(Problem(f"condition {condition}", "no forward pass ran under it", _CALL_ONCE))
        for plan in acting:
            if counts.fired.get(plan.layer.index, 0) != counts.forwards:
                raise NeverFired(Problem(f"layer {plan.layer.index}", "was not reached", _CALL_ONCE))
        for (scope, number), met in self._met.items():
            if number in {None, condition} and not met:
                raise NeverFired(Problem(str(scope), "no token was ever in scope", "check positions and segment"))
        live = [plan.min_live[condition] for plan in acting if plan.masked_cells[condition]]
        return Proof(
            forwards=counts.forwards,
            leaks=0,
            fired=dict(counts.fired),
            slots=counts.slots,
            masked_cells=sum(plan.masked_cells[condition] for plan in acting),
            edited_cells=sum(plan.edited_cells[condition] for plan in acting),
            edited_slots=counts.edited_slots,
            min_live=min(live, default=None),
        )

    def __enter__(self) -> Self:
        model = self._moe.model
        busy = any(layer.experts in _ACTIVE for layer in self._moe.layers)
        if busy or self._entered:
            found = "is already inside a session" if busy else "left this session before"
            raise Nested(Problem(type(model).__name__, found, "give one new session everything at once"))
        self._same_model()
        if self.recorder is not None:
            self.recorder.start(self._moe)
        self._entered = True
        try:
            _ACTIVE.update(layer.experts for layer in self._moe.layers)
            self._install()
            self._open = True
            return self  # noqa: TRY300  here, so that an interruption on the way out is caught too
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            lost = self._remove()
        finally:
            self._remove()  # an interruption does not leave half of it on the model
        if lost and kind is None:
            raise HooksLost(Problem(lost, "was replaced inside the session", "change the model before or after"))

    def _same_model(self) -> None:
        """Raise Invalid unless the model is as it was discovered, and runs its code as it is written."""
        model = self._moe.model
        check_runs_as_written(model)
        for layer in self._moe.layers:
            if model.get_submodule(layer.path) is not layer.block or layer.block.experts is not layer.experts:
                raise Invalid(Problem(layer.path, "is another module than was discovered", "discover again"))

    def _install(self) -> None:
        model = self._moe.model
        self._patch(model, "forward", self._forward)
        if hasattr(model, "generate"):
            self._patch(model, "generate", self._generate)
        for place, plan in enumerate(self._plan.layers):
            if plan.acts or self.recorder is not None:
                watched = Watched(self, place, plan)
                self._layers.append(watched)
                for module, forward in watched.forwards():
                    self._patch(module, "forward", forward)

    def _patch(self, owner: nn.Module, attribute: str, wrapper: Callable[..., Any]) -> None:
        patch = _Patch(owner, attribute, wrapper, self._passing)
        self._patches.append(patch)  # first, so that an interruption finds it
        patch.put()

    def _passing(self) -> bool:
        """Whether wrappers must do nothing, because the session is over."""
        return not self._open

    def _remove(self) -> str:
        """Take everything off the model; return what someone else had replaced, or ""."""
        self._open = False
        lost = [one.name for one in reversed(self._patches) if not one.remove()]
        for layer in self._moe.layers:
            _ACTIVE.discard(layer.experts)
        return lost[0] if lost else ""

    def _verify(self) -> None:
        for one in self._patches:
            if not one.holds():
                raise HooksLost(
                    Problem(one.name, "was replaced inside the session", "change the model before or after")
                )

    def _forward(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The model's forward: read the batch, run, check that every layer did its part."""
        if torch.compiler.is_compiling():
            raise NeverFired(Problem("forward", "is being compiled, which drops interventions", _CALL_ONCE))
        if self._moe.model.training:
            raise Invalid(Problem("forward", "runs in training mode", "call model.eval()"))
        if not self._running.acquire(blocking=False):
            raise Unreadable(Problem("forward", "runs inside or beside another one", "run one forward at a time"))
        try:
            return self._run(original, args, kwargs)
        finally:
            self._tokens = None
            self._running.release()

    def _run(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._verify()
        for one in self._layers:
            one.reset()
        self._tokens = tokens = self._read(original, args, kwargs)
        if self.recorder is not None:
            self.recorder.begin()
        out = original(*args, **kwargs)
        self._verify()
        for one in self._layers:
            if one.fired != 1:
                found = f"ran {one.fired} times in a forward pass"
                raise NeverFired(Problem(f"layer {one.plan.layer.index}", found, _CALL_ONCE))
        if self.recorder is not None:
            self.recorder.commit()
        self._count(tokens)
        return out

    def _read(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tokens:
        names = _parameters(original)
        call = dict(zip(names, args, strict=False)) | kwargs
        if args and "input_ids" not in call:
            call["input_ids"] = args[0]
        tokens = read_tokens(
            call,
            needs=self._needs,
            facts=self._facts,
            conditions=self.conditions,
            padding=self._padding,
            pad_ids=self._pad_ids(),
            generation=self._generation,
        )
        if self.recorder is not None and self.recorder.groups > 1 and tokens.labels is None:
            raise Invalid(
                Problem("batch.labels", "are not given, the recorder has groups", "call session.batch(labels=...)")
            )
        return tokens

    def _pad_ids(self) -> tuple[int, ...]:
        """Return the ids that may be padding: lm-evaluation-harness's 0, the model's own, those that end a text."""
        config = getattr(self._moe.model, "config", None)
        own = (_listed(getattr(config, name, None)) for name in ("pad_token_id", "eos_token_id"))
        return (0, *itertools.chain.from_iterable(own))

    def _count(self, tokens: Tokens) -> None:
        """Add a finished forward to the proof."""
        rows = [tokens.rows]
        if tokens.conditions is not None:
            rows = torch.bincount(tokens.conditions, minlength=self.conditions).tolist()
        for number, counts in enumerate(self._counts):
            if not rows[number]:
                continue
            counts.forwards += 1
            for one in self._layers:
                index = one.plan.layer.index
                counts.fired[index] = counts.fired.get(index, 0) + 1
                counts.slots += rows[number] * tokens.width * one.width
                counts.edited_slots += one.edited[number]
        for scope, condition in self._met:
            inside = tokens.inside(scope, condition)
            self._met[scope, condition] += tokens.count if inside is None else int(inside.sum())
        self.forwards += 1

    def _generate(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The model's generate: note where the prompt ends and which ids end a row."""
        source = (
            args[0]
            if args
            else next(
                (kwargs[name] for name in ("inputs", "input_ids", "inputs_embeds") if kwargs.get(name) is not None),
                None,
            )
        )
        configs = (kwargs, vars(kwargs.get("generation_config") or object), vars(self._moe.model.generation_config))
        settings = {
            name: next((one[name] for one in configs if one.get(name) is not None), None)
            for name in ("eos_token_id", "pad_token_id", "num_beams", "stop_strings", "stopping_criteria", *_DRAFTS)
        }
        if settings["assistant_early_exit"]:  # it also leaves the configuration changed where a forward stops
            found = "drafts with some of the layers, which is no forward of the model"
            raise Unreadable(Problem("generate", found, "leave out assistant_early_exit"))
        searching = (settings["num_beams"] or 1) > 1 or any(settings[name] for name in _DRAFTS)
        needs = self._needs
        if isinstance(source, Tensor):
            if searching and (needs.real or needs.positions or needs.segments):
                found = "searches beams or drafts, so which row a token belongs to cannot be told"
                raise Unreadable(Problem("generate", found, "decode greedily or sample"))
            ends = _listed(settings["eos_token_id"])
            if settings["stop_strings"] or settings["stopping_criteria"]:
                ends += _listed(settings["pad_token_id"])
            masked = isinstance(kwargs.get("attention_mask"), Tensor)
            self._generation = Generation(int(source.shape[1]), torch.tensor(ends, dtype=torch.int64), masked)
        try:
            return original(*args, **kwargs)
        finally:
            self._generation = None

    def current(self, layer: MoELayer) -> Tokens:
        """Return the tokens of the running forward.

        Raises:
            Unreadable: the layer runs outside the model's own forward.
            NeverFired: it is being compiled.
        """
        if torch.compiler.is_compiling():
            found = "is being compiled, which drops interventions"
            raise NeverFired(Problem(f"layer {layer.index}", found, _CALL_ONCE))
        if self._tokens is None:
            self._verify()
            raise Unreadable(Problem(f"layer {layer.index}", "runs outside the model's own forward", _CALL_ONCE))
        return self._tokens


class _Wrapper:
    """Calls the wrapper, handed the original first, or the original alone where there is nothing to do."""

    def __init__(self, original: Callable[..., Any], wrapper: Callable[..., Any], passing: Callable[[], bool]) -> None:
        functools.update_wrapper(self, original)  # generate() reads the signature of forward
        self._original, self._wrapper, self._passing = original, wrapper, passing

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._passing():
            return self._original(*args, **kwargs)
        return self._wrapper(self._original, *args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be copied or pickled: a copy of the model would go on running this one."""
        raise Nested(Problem("model", "is copied inside a session", "copy it before or after"))


class _Patch:
    """One attribute of one module, replaced from `put` until `remove`."""

    def __init__(
        self, owner: nn.Module, attribute: str, wrapper: Callable[..., Any], passing: Callable[[], bool]
    ) -> None:
        self.name = f"{type(owner).__name__}.{attribute}"
        self._owner, self._attribute = owner, attribute
        self._mine = _Wrapper(getattr(owner, attribute), wrapper, passing)
        self._had = attribute in owner.__dict__
        self._held = owner.__dict__.get(attribute)
        self._removed = False

    def put(self) -> None:
        """Replace the attribute."""
        self._owner.__dict__[self._attribute] = self._mine

    def holds(self) -> bool:
        """Whether the attribute is still ours."""
        return self._owner.__dict__.get(self._attribute) is self._mine

    def remove(self) -> bool:
        """Put back what was there, once; return False if someone else has changed it, and leave theirs."""
        if self._removed:
            return True
        if not self.holds():
            return False
        if self._had:
            self._owner.__dict__[self._attribute] = self._held
        else:
            del self._owner.__dict__[self._attribute]
        self._removed = True
        return True


def _parameters(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a forward's parameters, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, one in inspect.signature(forward).parameters.items() if one.kind in kinds)


def _listed(ids: Any) -> tuple[int, ...]:
    """Return token ids, given as None, one, a list or a tensor."""
    if ids is None:
        return ()
    if isinstance(ids, Tensor):
        ids = ids.flatten().tolist()
    return (int(ids),) if isinstance(ids, int) else tuple(int(one) for one in ids)
