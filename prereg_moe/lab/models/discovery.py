"""Find the routed layers of a model by structure, and learn how they route from one small forward.

Structure: a child module called ``experts`` that knows its expert count, beside exactly one child
called ``gate`` or ``router``. Behaviour: a few tokens are sent through the model while every torch
call between the router's entry and the experts' entry is read. That gives the number of classes
(experts and no-op classes), k, groups, where the selection happens, what the experts are handed
and whether gates are normalised. Nothing is read from configuration, nothing from class names.

A layout that is not this one is refused with its place and the reason. A layer that can be observed
but whose router cannot be edited exactly (it selects by a hash table, say) is found, with the
reason in ``refusal``; interventions on its router are refused with that reason. Where only the
logits cannot be told, ``no_logits`` has the reason, and what needs logits is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prereg_moe.atlas.configured import EXPERT_COUNTS
from prereg_moe.errors import Invalid, Problem
from prereg_moe.lab.models.ops import LINEAR, SCORES, Selection, device_of, read_selection

__all__ = ["MoE", "MoELayer", "Unsupported", "check_runs_as_written", "discover"]

_ROUTERS: Final = ("gate", "router")
_PROBE_TOKENS: Final = 32


class Unsupported(Invalid):
    """This model, or this layer of it, cannot be observed or intervened on exactly."""


@dataclass(frozen=True, slots=True, eq=False)
class MoELayer:
    """One routed layer.

    ``classes`` counts what the router compares: the experts, and no-op classes after them. ``groups``
    is 1 where the router does not limit itself to groups; else it keeps ``groups_kept`` of them, each
    scored by its best ``group_votes`` experts. ``selects`` is "router" or "block": where the
    comparison happens. ``takes`` is "indices", or "gated inputs" where each expert is handed all
    tokens times their gates. ``gate_output`` is the router output that holds those gates (-1: none).
    ``softmax`` says that scores are a softmax over all classes, ``normalised`` that the gates of a token have a
    constant sum. ``cut`` numbers the router's last comparison over all classes, the one that picks; ``settable_k``
    says that it is a ``topk``. ``no_outputs`` says why what an expert contributes is not its gate times its output,
    where that is so.
    """

    index: int
    path: str
    block: nn.Module
    router: nn.Module
    experts: nn.Module
    n_experts: int
    classes: int
    top_k: int
    groups: int = 1
    groups_kept: int = 1
    group_votes: int = 0
    selects: str = "router"
    takes: str = "indices"
    gate_output: int = -1
    softmax: bool = False
    normalised: bool = False
    cut: int = 0
    settable_k: bool = False
    steps: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    refusal: str = ""
    no_logits: str = ""
    no_outputs: str = ""

    @property
    def max_masked(self) -> int:
        """How many experts can be masked whichever they are; more may be, where the router searches groups."""
        searched = self.groups_kept * self.classes // self.groups
        return 0 if self.refusal else max(min(searched - self.top_k, self.n_experts), 0)

    @property
    def renorm_is_local(self) -> bool:
        """Whether gates ``renorm`` leave a token alone that selects no masked expert.

        They do not where gates are a softmax over all experts that is not normalised after the selection, for the
        other gates grow; nor where groups are searched, for a group is kept for experts that may be masked, unless one
        is kept, for experts that are then selected.
        """
        anew = self.groups_kept < self.groups and (self.groups_kept > 1 or self.group_votes > self.top_k)
        return not anew and (self.normalised or not self.softmax)

    def describe(self) -> dict[str, Any]:
        """Return what was found, as JSON."""
        return {
            "layer": self.index,
            "path": self.path,
            "router": type(self.router).__name__,
            "experts": type(self.experts).__name__,
            "n_experts": self.n_experts,
            "no_op_classes": self.classes - self.n_experts,
            "top_k": self.top_k,
            "groups": self.groups,
            "groups_kept": self.groups_kept,
            "selection": f"in the {self.selects}",
            "experts_take": self.takes,
            "gates_normalised": self.normalised,
            "renorm_is_local": self.renorm_is_local,
            "max_masked": self.max_masked,
            "steps": list(self.steps),
            "shared": list(self.shared),
            "refusal": self.refusal,
            "no_logits": self.no_logits,
            "no_outputs": self.no_outputs,
        }


@dataclass(frozen=True, slots=True, eq=False)
class MoE:
    """A model and its routed layers, in decoder order."""

    model: nn.Module
    layers: tuple[MoELayer, ...]
    implementation: str = ""

    @property
    def indices(self) -> tuple[int, ...]:
        """Decoder layer indices of the routed layers."""
        return tuple(layer.index for layer in self.layers)

    @property
    def n_experts(self) -> int:
        """Experts in the widest layer."""
        return max(layer.n_experts for layer in self.layers)

    def layer(self, index: int) -> MoELayer:
        """Return the routed layer at a decoder layer index.

        Raises:
            Invalid: that decoder layer does not route.
        """
        for layer in self.layers:
            if layer.index == index:
                return layer
        raise Invalid(Problem(f"layer {index}", "is not an MoE layer", f"MoE layers are {list(self.indices)}"))

    def describe(self) -> dict[str, Any]:
        """Return what was found, as JSON."""
        return {
            "model": type(self.model).__name__,
            "experts_implementation": self.implementation,
            "layers": [layer.describe() for layer in self.layers],
        }


def discover(model: nn.Module) -> MoE:
    """Return the routed layers of a model, learned from its structure and one small forward.

    The model is left as it was.

    Raises:
        Unsupported: no routed layers, or a layer laid out in a way that cannot be observed exactly.
        Invalid: the model is in training mode, where routers may draw random numbers.
    """
    check_runs_as_written(model)
    sites = _sites(model)
    _probe(model, sites)
    config = getattr(model, "config", None)
    implementation = getattr(config, "_experts_implementation", None) or ""
    layers = [_layer(site) for site in sites]
    uneven = {type(layer.router) for layer in layers if not layer.normalised}  # by chance, a few tokens may agree
    alike = (replace(layer, normalised=type(layer.router) not in uneven) for layer in layers)
    return MoE(model, tuple(alike), str(implementation))


@dataclass(eq=False)
class _Site:
    """One candidate layer and what the probe saw there."""

    index: int
    path: str
    block: nn.Module
    router: nn.Module
    experts: nn.Module
    n_experts: int
    trace: _Trace | None = None
    outputs: tuple[Any, ...] = ()
    arguments: tuple[Any, ...] = ()
    keywords: tuple[str, ...] = ()
    calls: int = 0
    linear: bool = True

    @property
    def where(self) -> str:
        return f"layer {self.index} ({self.path}, {type(self.router).__name__})"


def check_runs_as_written(model: nn.Module) -> None:
    """Raise unless every module is in evaluation mode and runs its Python forward, which is what edits are put on.

    Raises:
        Invalid: a module is in training mode, where routers may draw random numbers.
        Unsupported: a module was compiled.
    """
    for path, module in model.named_modules():
        if module.training:
            found = "is in training mode, where routers may be random"
            raise Invalid(Problem(path or type(model).__name__, found, "call model.eval() first"))
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            raise Unsupported(Problem(path or type(model).__name__, "is compiled", "load the model without compiling"))


def _sites(model: nn.Module) -> list[_Site]:
    """Return every block with fused experts beside one router.

    Raises:
        Unsupported: none, an ``experts`` that is laid out differently, two in one decoder layer, or one shared by two.
    """
    sites: list[_Site] = []
    odd: list[Problem] = []
    for path, block in model.named_modules():
        children = dict(block.named_children())
        if "experts" not in children:
            continue
        routers = [name for name in _ROUTERS if name in children]
        count = _expert_count(children["experts"])
        if count is None or len(routers) != 1:
            kind = type(children["experts"]).__name__
            found = f"{type(block).__name__} keeps {kind} beside {sorted(set(children) - {'experts'})}"
            odd.append(Problem(path, found, "one fused `experts` module beside one `gate` or `router` is supported"))
            continue
        numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", path)
        index = int(numbers[0]) if numbers else 0
        sites.append(_Site(index, path, block, children[routers[0]], children["experts"], count))
    if odd:
        raise Unsupported(odd)
    if not sites:
        found = "is dense, or keeps its experts in another way: it has no module `experts` beside a `gate` or `router`"
        raise Unsupported(Problem(type(model).__name__, found, "docs/interventions.md lists what is supported"))
    sites.sort(key=lambda site: site.index)
    for one, two in itertools.pairwise(sites):
        if one.index == two.index:
            raise Unsupported(Problem(f"layer {one.index}", f"routes twice: {one.path} and {two.path}"))
    owners: dict[nn.Module, _Site] = {}
    for site in sites:
        for module in (site.router, site.experts):
            owner = owners.setdefault(module, site)
            if owner is not site:
                found = f"shares its {type(module).__name__} with layer {owner.index}"
                raise Unsupported(Problem(site.where, found, "which layer runs could not be told"))
    return sites


def _expert_count(experts: nn.Module) -> int | None:
    """Return how many experts a fused module says it has, or None."""
    if getattr(experts, "_is_expert_parallel", False):
        return None  # a rank sees its own experts only, and indices beyond them
    for name in EXPERT_COUNTS:
        value = getattr(experts, name, None)
        if isinstance(value, int) and value > 1:
            return value
    return None


class _Trace(TorchFunctionMode):
    """Reads torch calls; ``phase`` is "router", "after" (router left, experts not entered) or "off"."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "off"
        self.selections: list[tuple[str, Selection]] = []
        self.linears: list[Tensor] = []
        self.steps: list[str] = []
        self.softmaxes: list[int] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.phase == "off":
            return out
        selection = read_selection(func, args, kwargs or {})
        if selection is not None:
            self.selections.append((self.phase, selection))
            self.steps.append(f"{selection.kind}{selection.k or ''} of {_width(selection.keys)}")
        elif func in LINEAR and self.phase == "router":
            self.linears.append(out)
            self.steps.append(f"linear to {out.shape[-1]}")
        elif func in SCORES:
            self.steps.append(SCORES[func])
            if SCORES[func] == "softmax":
                self.softmaxes.append(out.shape[-1])
        return out


def _width(keys: Tensor) -> str:
    """Return the axes of keys behind those of the tokens: ``8``, or ``4×2`` for groups."""
    sides = list(keys.shape)
    count = sides.pop(0)
    while count < _PROBE_TOKENS and len(sides) > 1:
        count *= sides.pop(0)
    return "×".join(map(str, sides))


@contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``module.forward(...)`` is ``forward(original, ...)``; after, the module is as it was."""
    held = module.__dict__.get("forward")
    original = module.forward
    module.__dict__["forward"] = lambda *args, **kwargs: forward(original, *args, **kwargs)
    try:
        yield
    finally:
        if held is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = held


def _watch(site: _Site, stack: ExitStack) -> None:
    """Record what happens at a site until the stack closes."""

    def block(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _Trace() as site.trace:
            return original(*args, **kwargs)

    def router(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if site.trace is None:
            raise Unsupported(Problem(site.where, "its router runs outside its block's forward"))
        site.trace.phase = "router"
        out = original(*args, **kwargs)
        site.trace.phase = "after"
        site.outputs = out if isinstance(out, tuple) else (out,)
        return out

    def experts(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if site.trace is not None:
            site.trace.phase = "off"
        site.arguments, site.keywords, site.calls = args, tuple(kwargs), site.calls + 1
        out = original(*args, **kwargs)
        slots = None if kwargs else _slots(args)
        if slots is not None and isinstance(out, Tensor):
            halved = (one / 2 if one is slots[1] else one for one in args)
            site.linear = _alike(original(*halved), out / 2)
        return out

    stack.enter_context(_replaced(site.block, block))
    stack.enter_context(_replaced(site.router, router))
    stack.enter_context(_replaced(site.experts, experts))


def _probe(model: nn.Module, sites: list[_Site]) -> None:
    """Send a few tokens through the model and record every site."""
    embeddings: Any = getattr(model, "get_input_embeddings", None)
    embedding = embeddings() if callable(embeddings) else None
    size = int(getattr(embedding, "num_embeddings", 0) or 8)
    device = device_of(model)
    tokens = torch.arange(3, 3 + _PROBE_TOKENS, device=device)[None] % size
    with ExitStack() as stack, torch.no_grad(), _drawing_nothing(model, device):
        for site in sites:
            _watch(site, stack)
        try:
            model(input_ids=tokens, use_cache=False)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            found = f"its own forward fails on {_PROBE_TOKENS} tokens ({error})"
            todo = "check its config.json, or load it in another dtype"
            raise Unsupported(Problem(type(model).__name__, found, todo)) from error


@contextmanager
def _drawing_nothing(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Raise Unsupported, with torch's random state as it was, if random numbers are drawn inside."""
    devices = [device] if device.type == "cuda" else []

    def state() -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in devices)]

    with torch.random.fork_rng(devices):
        before = state()
        yield
        drawn = not all(map(torch.equal, before, state()))
    if drawn:
        found = "draws random numbers in evaluation mode, so no two forwards are alike"
        raise Unsupported(Problem(type(model).__name__, found, "turn its noise off"))


@dataclass(frozen=True, slots=True)
class _Routing:
    """What the trace of one site says about its router."""

    classes: int
    refusal: str = ""
    no_logits: str = ""
    flat: tuple[Selection, ...] = ()
    grouped: tuple[Selection, ...] = ()
    selections: tuple[Selection, ...] = ()


def _routing(site: _Site, trace: _Trace) -> _Routing:
    """Return the classes a router compares, or why it cannot be edited exactly."""
    selections = tuple(selection for _, selection in trace.selections)
    router = type(site.router).__name__
    if not selections:
        found = f"{router} selects experts without comparing scores"
        return _Routing(site.n_experts, found, found)
    widths = [selection.keys.shape[-1] for selection in selections]
    classes = max((width for width in widths if width >= site.n_experts), default=0)
    if not classes:
        found = f"{router} never compares all {site.n_experts} experts at once"
        return _Routing(site.n_experts, found, found)
    maps = sum(out.shape[-1] == classes for out in trace.linears)
    no_logits = f"{router} makes {maps} linear maps onto {classes} classes, not one" if maps != 1 else ""
    if {"tanh", "softmax"} <= set(trace.steps):
        no_logits = f"{router} caps its logits, so that none can be −∞ in its softmax"
    flat = tuple(selection for selection in selections if selection.axis(classes) == "flat")
    grouped = tuple(selection for selection in selections if selection.axis(classes) == "grouped")
    return _Routing(classes, "", no_logits, flat, grouped, selections)


def _layer(site: _Site) -> MoELayer:
    """Return what the probe learned about a site.

    Raises:
        Unsupported: router or experts were not called once each, or the experts' call is unknown.
    """
    trace = site.trace
    if trace is None or site.calls != 1 or not site.outputs:
        found = f"its block called the experts {site.calls} times in one forward"
        todo = "a fused kernel or another wrapper may replace the block"
        raise Unsupported(Problem(site.where, found, "layers that run twice are not supported" if site.calls else todo))
    if site.keywords:
        raise Unsupported(Problem(site.where, f"its experts are called with keywords {list(site.keywords)}"))
    routing = _routing(site, trace)
    slots = _slots(site.arguments)
    if slots is not None and not slots[0].shape[-1]:
        raise Unsupported(Problem(site.where, "it selects no expert for a token", "check its config.json"))
    if slots is not None and len(slots[0]) != _PROBE_TOKENS:
        found = f"hands its experts {tuple(slots[0].shape)} slots for {_PROBE_TOKENS} tokens"
        raise Unsupported(Problem(site.where, found, "experts that choose tokens are not supported"))
    odd = {} if site.linear else {"no_outputs": "its experts' outputs are not proportional to their gates"}
    extra = _dense(site, routing) if slots is None else odd
    top_k, gates = (routing.flat[-1].k, None) if slots is None else (slots[0].shape[-1], slots[1])
    in_router = any(phase == "router" for phase, _ in trace.selections) or not trace.selections
    softmaxes = trace.softmaxes.count(routing.classes)  # one for every slot, where slots are picked one by one
    return MoELayer(
        index=site.index,
        path=site.path,
        block=site.block,
        router=site.router,
        experts=site.experts,
        n_experts=site.n_experts,
        classes=routing.classes,
        top_k=top_k,
        selects="router" if in_router else "block",
        softmax=softmaxes > 0,
        normalised=gates is not None and softmaxes < 2 and _constant(gates),
        cut=max(len(routing.flat) - 1, 0),
        settable_k=bool(routing.flat) and (routing.flat[-1].kind, routing.flat[-1].k) == ("topk", top_k),
        steps=tuple(trace.steps),
        shared=tuple(name for name, _ in site.block.named_children() if name.startswith("shared")),
        refusal=routing.refusal,
        no_logits=routing.no_logits,
        **_groups(routing),
        **extra,
    )


def _constant(gates: Tensor) -> bool:
    """Return whether the gates (tokens, k) of every token sum alike, but for rounding and small terms in a divisor."""
    sums = gates.double().sum(-1)
    return bool(sums.max() - sums.min() < max(1e-4, 2 * torch.finfo(gates.dtype).eps) * sums.mean())


def _alike(one: Tensor, two: Tensor) -> bool:
    """Return whether two outputs agree to one percent where they are numbers."""
    number = torch.isfinite(one) & torch.isfinite(two)
    one, two = one[number].double(), two[number].double()
    return bool(((one - two).abs() <= 1e-2 * two.abs().max()).all()) if len(two) else True


def _slots(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
    """Return (indices, gates), each (tokens, k), from the experts' arguments (hidden, and these two in any order)."""
    if len(arguments) != 3 or not all(isinstance(one, Tensor) for one in arguments):
        return None
    for one, other in (arguments[1:], arguments[:0:-1]):
        if not one.is_floating_point() and one.dim() == 2 and one.shape == other.shape:
            return one, other
    return None


def _dense(site: _Site, routing: _Routing) -> dict[str, Any]:
    """Return how gates reach experts that are handed every token times its gate.

    Raises:
        Unsupported: the experts take neither indices nor one gated row per expert and token.
    """
    rows = site.arguments[0].shape[0] if site.arguments and isinstance(site.arguments[0], Tensor) else 0
    gates = [
        number
        for number, out in enumerate(site.outputs)
        if isinstance(out, Tensor)
        and tuple(out.shape) == (_PROBE_TOKENS, site.n_experts)
        and bool(torch.isfinite(out).all())
        and bool(((out != 0).sum(-1) <= routing.flat[-1].k if routing.flat else out != out).all())
    ]
    if routing.refusal or len(site.arguments) != 1 or rows != site.n_experts * _PROBE_TOKENS or len(gates) != 1:
        found = f"{type(site.experts).__name__} takes neither top-k indices nor one gated row per expert and token"
        raise Unsupported(Problem(site.where, routing.refusal or found))
    no_outputs = "gates multiply the inputs of its experts, not the outputs"
    return {"takes": "gated inputs", "gate_output": gates[0], "no_outputs": no_outputs}


def _groups(routing: _Routing) -> dict[str, Any]:
    """Return groups, groups kept and votes per group, where the router limits itself to groups."""
    if not routing.grouped:
        return {}
    first = routing.grouped[0]
    groups = first.keys.shape[-2]
    kept = [one.k for one in routing.selections if one.keys.dim() == 2 and one.keys.shape[-1] == groups]
    return {"groups": groups, "groups_kept": kept[0] if kept else groups, "group_votes": first.k}
