"""How answers are computed: plan → engine → replay.

    harness = Harness(...)                        # what lm-eval asks, tokenised once: harness.plan
    engine = make_engine(moe, harness, settings)  # by the registered kind
    for found in engine.answer(cases):            # one `Found` a case, in order
        harness.score(found.answers)              # lm-eval itself scores them

A `Case` is a condition as an engine sees it: what is done to the model. Its cases come in packs
(`packs`), which are a function of the frozen registration alone, and so does every batch: what an
engine computes together, and with it the last bit of every answer, cannot depend on which worker
or shard does it, on what was there before, or on where a run was killed. A pack is the unit of work
to hand out; whoever resumes one computes all of it and writes what is missing.

`stock` is lm-evaluation-harness's own path and the reference; `sweep` computes the same answers with
everything shared that is shared, and checks itself against `stock` in every condition.
"""

from prereg_moe.lab.engines.base import Answer, Case, Engine, Found, Prompt, Request
from prereg_moe.lab.engines.packs import packs

__all__ = ["Answer", "Case", "Engine", "Found", "Prompt", "Request", "packs"]
