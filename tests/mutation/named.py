# ruff: noqa: E501 - a mutant is one line, however long the text it changes
"""Mutants that a statistician would fear: each is a mistake with a name, made in the package's own text.

A mutant replaces text that occurs exactly once in its module; the tests named beside it must then fail.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NAMED", "OFTEN", "Named"]


@dataclass(frozen=True, slots=True)
class Named:
    """A mistake, the module it is made in, and the tests that have to notice it."""

    mistake: str
    module: str
    before: str
    after: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}: {self.mistake}"


_NULLS, _SELECTIVITY, _INTERVALS = "stats/test_nulls.py", "stats/test_selectivity.py", "stats/test_intervals.py"
_MULTIPLICITY, _RESAMPLE, _PAIRED = "stats/test_multiplicity.py", "stats/test_resample.py", "stats/test_paired.py"
_EQUIVALENCE, _EFFECTS, _SCREENS = "stats/test_equivalence.py", "stats/test_effects.py", "stats/test_screens.py"
_ASSOCIATION, _MULTIVERSE = "stats/test_association.py", "stats/test_multiverse.py"
_LAWS, _RULE = "property/test_verdict_laws.py", "property/test_rule_parts.py"

_TEXTS: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("stats/multiplicity.py", _MULTIPLICITY): [
        ("a tie with the null counts for the claim", "(rest >= falling)", "(rest > falling)"),
        ("+1 dropped from max-T", "(1 + exceed) / (1 + draws.shape[0])", "exceed / draws.shape[0]"),
        ("max-T not made monotone", "np.maximum.accumulate((1 + exceed)", "np.asarray((1 + exceed)"),
        ("max-T over the rejected as well", "np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]", "null"),
        ("Holm with Bonferroni's last step", "p * (p.size - rank + 1)", "p * (p.size - rank)"),
        ("partial conjunction of the smallest p", "(k - least + 1) * values[least - 1]", "k * values[0]"),
        ("partial conjunction without its factor", "(k - least + 1) * values", "values"),
    ],
    ("stats/nulls.py", _NULLS): [
        ("a draw that ties counts for the family", "(pool >= effect)", "(pool > effect)"),
        ("+1 dropped from the randomisation p", "(1 + (pool >= effect).sum(axis=0)) / (R + 1)", "(pool >= effect).mean(0)"),
        ("minimum effect ignored", "_upper_tail(difference - min_effect, se, df)", "_upper_tail(difference, se, df)"),
        ("minimum effect with the wrong sign", "difference - min_effect, se", "difference + min_effect, se"),
        ("draws taken as fixed: items only", " + null_variance / R)", ")"),
        ("degrees of freedom of the items alone", "np.minimum(n, R) - 1.0", "n - 1.0"),
        ("two-sided p of a one-sided question", "stdtr(df, -gap / se), 1.0", "2 * stdtr(df, -abs(gap) / se), 1.0"),
        ("p of the wrong side", "stdtr(df, -gap / se)", "stdtr(df, gap / se)"),
        ("family left in its own yardstick", "np.sqrt(others / (m - 2))", "np.sqrt(total / (m - 1))"),
        ("no Holm over the families", 'adjusted = adjust(p_items, "holm")', "adjusted = p_items"),
        ("union instead of intersection", "p=np.maximum.reduce", "p=np.minimum.reduce"),
        ("every family the same draw", "cards[row, j], cards[row, f]\n", "cards[row, f], cards[row, j]\n"),
    ],
    ("stats/selectivity.py", _SELECTIVITY): [
        ("κ's sign", "column, -kappa * sign)", "column, kappa * sign)"),
        ("κ's sign where items are linked", "family.on - kappa * off", "family.on + kappa * off"),
        ("κ not squared in the variance", "weight**2 * axis.squared_se[c]", "abs(weight) * axis.squared_se[c]"),
        ("κ not squared in the resampled variance", "weight**2 * axis.variance[:, c]", "abs(weight) * axis.variance[:, c]"),
        (
            "minimum over the resampled axes instead of the binding axis",
            "null = np.stack([draws for _, draws in bound], axis=1)",
            "null = np.stack([np.min([d for _, d in contrasts], axis=0) for contrasts in computed], axis=1)",
        ),
        ("the easiest axis instead of the binding one", "return min(contrasts", "return max(contrasts"),
        ("no floor over the axes", "p=max(p_maxt, p_floor)", "p=p_maxt"),
        ("no small-sample factor", "(1 + SMALL_SAMPLE / n) * (1 + reached)", "(1 + reached)"),
        ("+1 dropped from the marginal p", "(1 + int((upward >= t).sum())) / (B + 1)", "int((upward >= t).sum()) / B"),
        ("a tie counts for the claim", "int((upward >= t).sum())", "int((upward > t).sum())"),
        ("resamples without spread count for the claim", "np.where(np.isnan(null), np.inf, null)\n    downward", "np.where(np.isnan(null), -np.inf, null)\n    downward"),
        ("refutation without max-T", "np.maximum(below, p_below / families)", "np.asarray(below)"),
        ("refutation without Holm over the axes", "* len(contrasts) * contrast.p_below", "* contrast.p_below"),
        ("refutation without the small-sample factor", "(1 + SMALL_SAMPLE / smallest) * len(contrasts)", "len(contrasts)"),
        ("items for clusters", "cluster_means(values, clusters[axis]) if axis in clusters else values", "values"),
        ("skew of the wrong sign", "SKEW: -binding.skew > _SKEW_GUARD", "SKEW: binding.skew > _SKEW_GUARD"),
        ("Welch without Holm", 'column(adjust([result.p_welch for result in results], "holm"))', "column([result.p_welch for result in results])"),
        ("families resampled apart", 'f"axis {family.on_axis}", family.on)', 'f"axis {family.label}", family.on)'),
    ],
    ("stats/intervals.py", _INTERVALS): [
        ("one-sided p for a two-sided one", '"two": min(1.0, 2 * min(tails))', '"two": min(tails)'),
        ("one-sided interval for a two-sided one", "(2 if self.sides == \"two\" else 1)", "1"),
        ("the ends of t* swapped", "(value - scale * largest, value - scale * smallest)", "(value + scale * smallest, value + scale * largest)"),
        ("items for clusters", "values if clusters is None else cluster_means(values, clusters)", "values"),
        ("resamples without spread left out", "np.where(degenerate, -np.inf, null), np.where(degenerate, np.inf, null)", "np.where(degenerate, np.inf, null), np.where(degenerate, -np.inf, null)"),
        ("BCa without its acceleration", "/ (1 - acceleration * (z0 + z))", ""),
        ("BCa without its bias correction", "z0 = float(ndtri(below))", "z0 = 0.0"),
    ],
    ("stats/resample.py", _RESAMPLE): [
        ("replicates share their words", "halves = source.words(start * width,", "halves = source.words(start,"),
        ("sums that depend on their order", "return np.rint(scaled, out=scaled), g", "return scaled, g"),
        ("sums of the smallest that depend on their order", "return np.rint(np.ldexp(values, g)), g", "return np.ldexp(values, g), g"),
        ("variance over n", "exact_sum(deviation * deviation) / (values.shape[0] - 1)", "exact_sum(deviation * deviation) / values.shape[0]"),
        ("resampled variance over n", "return shift, variance / (n - 1)", "return shift, variance / n"),
        ("permutation leaves its group", "(group << np.uint64(40)) | (words >> np.uint64(24))", "words >> np.uint64(24)"),
        ("clusters weigh by their size", "exact_mean(values[member == k]) for", "exact_sum(values[member == k]) for"),
    ],
    ("stats/equivalence.py", _EQUIVALENCE): [
        ("one of two one-sided tests is enough", "p=max(p_low, p_high)", "p=min(p_low, p_high)"),
        ("absence without its power gate", '"power": power >= power_gate', '"power": True'),
        ("absence without its positive control", '"positive_control": positive_control}', '"positive_control": True}'),
        ("items for clusters", "raw if clusters is None else cluster_means(raw, clusters)", "raw"),
        ("no effect by t alone", "p = np.maximum.reduce([p, F", "p = np.maximum.reduce([p, 0 * F"),
        ("no effect without max-T", ", stepdown_maxt(gap, against)])", "])"),
        ("draws taken as fixed: items only", "variance += exact_variance(pool) / len(pool)", "pass"),
    ],
    ("stats/paired.py", _PAIRED): [
        ("one-sided p for a two-sided one", '"two": min(1.0, 2 * min(down, up))', '"two": min(down, up)'),
        ("unpaired standard error", "q_gained + q_lost - centre**2", "q_gained + q_lost"),
        ("items for clusters", "raw if clusters is None else cluster_means(raw, clusters)", "raw"),
    ],
    ("stats/effects.py", _EFFECTS): [
        ("draws taken as fixed: items only", "float(exact_variance(over_items)) / R + ", ""),
        ("one-sided p for a two-sided one", "p = 2 * float(stdtr(df, -abs(value) / se))", "p = float(stdtr(df, -abs(value) / se))"),
        ("items for clusters", "sums = np.array([float(exact_sum(data[member == g] - mean)) for g in range(G)])", "sums = data - mean"),
    ],
    ("stats/association.py", _ASSOCIATION): [
        ("permuted over all layers", "group = np.zeros(n, dtype=np.int64) if block is None else block", "group = np.zeros(n, dtype=np.int64)"),
        ("+1 dropped", "p = (1 + (null >= observed).sum(axis=0)) / (1 + null.shape[0])", "p = (null >= observed).mean(axis=0)"),
    ],
    ("stats/screens.py", _SCREENS): [
        ("no maximum over the axes", "np.maximum(largest[start:stop], reached)", "reached"),
        ("+1 dropped", "(1 + largest.size - below) / (1 + largest.size)", "(largest.size - below) / largest.size"),
    ],
    ("stats/multiverse.py", _MULTIVERSE): [
        ("a draw that ties counts for the family", "(medians[:-1] >= medians[-1])", "(medians[:-1] > medians[-1])"),
        ("+1 dropped", "(1 + int((medians[:-1] >= medians[-1]).sum())) / (1 + draws.shape[0])", "float((medians[:-1] >= medians[-1]).mean())"),
        ("each analysis in its own yardstick no more", "leave_one_out_z(np.concatenate([draws, effect[None]]))", "np.concatenate([draws, effect[None]])"),
    ],
    ("verdict/decide.py", _RULE): [
        ("the effect itself need not be harm", '"NOT_HARMED": harm_adjusted,', ""),
        ("harm without Holm", 'np.asarray(stats.adjust(harm, "holm"))', "np.asarray(harm)"),
        ("selectivity left out", '{**on.corrected, "NOT_SELECTIVE": spared.p}', "{**on.corrected}"),
        ("selectivity alone", '{**on.corrected, "NOT_SELECTIVE": spared.p}', '{"NOT_SELECTIVE": spared.p}'),
        ("no correction of refutations", "share = alpha / len(tests.spared.families)", "share = alpha"),
        ("refuted although the effect is not shown", "corrected.on[index] <= alpha and tests.spared.p_refute", "tests.spared.p_refute"),
        ("α reached is α missed", "if p_adjusted <= alpha:", "if p_adjusted < alpha:"),
        ("no escalation", "inference.escalation > inference.resamples:", "False:"),
        ("κ of the rule ignored", "kappa=rule.kappa", "kappa=3.0"),
        ("minimum effect of the rule ignored", "min_effect=rule.minimum_effect", "min_effect=0.0"),
        ("unknown confirms", "CONFIRMED if outcome.truth else", "CONFIRMED if outcome.truth is not False else"),
        ("the mildest off-axis for the worst", "axis = max(effects.off[family]", "axis = min(effects.off[family]"),
    ],
    ("verdict/decision.py", _RULE): [
        ("failed controls gate nothing", " if failed else decision", " if not failed else decision"),
    ],
    ("verdict/estimate.py", f"{_LAWS}::test_items_of_one_cluster_are_one_unit {_LAWS}::test_where_less_is_worse_the_sign_turns"): [
        ("items for clusters", "clusters[axis] if clusters is not None else ids", "ids"),
        ("harm's sign", 'harm == "increase" else -1.0', 'harm != "increase" else -1.0'),
    ],
    ("verdict/decide.py", f"{_LAWS}::test_skewed_data_confirm_only_where_the_welch_version_agrees"): [
        ("no guard against skew", '"SKEW" in flags and welch > alpha', "False"),
    ],
    ("verdict/estimate.py", "property/test_one_verdict.py::test_one_sha256_over_blocks_threads_and_orders"): [
        ("items in the order of the file", "for name in sorted(groups)", "for name in groups"),
    ],
    ("verdict/__init__.py", f"{_LAWS}::test_where_a_control_fails_every_other_claim_is_invalid"): [
        ("a control may fail", '"holds": enough and few', '"holds": enough or few'),
    ],
    ("verdict/__init__.py", f"{_LAWS}::test_a_replication_is_as_sure_as_its_least_sure_block"): [
        ("replication in one block is enough", "p_adjusted = _conjunction([block[family].p_adjusted for block in blocks], replication.require)", "p_adjusted = _conjunction([block[family].p_adjusted for block in blocks], 1)"),
    ],
}  # fmt: skip

NAMED = tuple(
    Named(mistake, module, before, after, tuple(f"tests/{test}" for test in tests.split()))
    for (module, tests), texts in _TEXTS.items()
    for mistake, before, after in texts
)

OFTEN = frozenset(  # what every run of the suite tries: the mistakes that would most easily be made
    {
        ("stats/nulls.py", "a draw that ties counts for the family"),
        ("stats/nulls.py", "+1 dropped from the randomisation p"),
        ("stats/nulls.py", "two-sided p of a one-sided question"),
        ("stats/selectivity.py", "κ's sign"),
        ("stats/selectivity.py", "minimum over the resampled axes instead of the binding axis"),
        ("stats/selectivity.py", "+1 dropped from the marginal p"),
        ("stats/selectivity.py", "a tie counts for the claim"),
        ("stats/selectivity.py", "items for clusters"),
        ("verdict/decide.py", "selectivity left out"),
        ("verdict/decide.py", "α reached is α missed"),
    }
)
