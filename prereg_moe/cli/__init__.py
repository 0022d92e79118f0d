"""The command line: one verb a stage, each a thin call into the library.

The verbs stand in `prepare`, `study` and `integrity`; what is printed is in `show`. A stage is
imported when its verb is used, so that ``--help``, ``check``, ``freeze`` and ``status`` start
without scipy, and nothing but the lab's workers loads torch. An expected error is one line a
problem (what, where, what to do) and the exit code of its fault; with ``--json`` the last line
of output is one JSON document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from rich.markup import escape

from prereg_moe import __version__
from prereg_moe.cli import changing, elsewhere, integrity, prepare, show, study
from prereg_moe.cli.trust import trust
from prereg_moe.errors import Invalid, PreregError, Problem, Stopped

__all__ = ["cli", "main"]

_TRUST = {"cryptography", "securesystemslib", "rfc3161_client"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=arguments, prog_name="prereg-moe", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        where = error.ctx.command_path if error.ctx else "prereg-moe"
        _fail(Invalid(Problem(where, error.format_message(), f"see `{where} --help`")), arguments, said=True)
    except (click.Abort, KeyboardInterrupt):
        _fail(Stopped(Problem("", "interrupted", "what is written stays, run the command again to go on")), arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Stopped.exit_code)
    except ModuleNotFoundError as error:
        extra = "trust" if str(error.name).partition(".")[0] in _TRUST else "lab"
        found, todo = f"the package {error.name} is not installed", f"install it: pip install 'prereg-moe[{extra}]'"
        _fail(Invalid(Problem(extra, found, todo)), arguments)
    except PreregError as error:
        _fail(error, arguments)
    except Exception as error:  # the one place where a bug becomes a message
        if os.environ.get("PREREG_MOE_DEBUG"):
            raise
        _fail(Stopped(Problem("a bug in prereg-moe", repr(error), "set PREREG_MOE_DEBUG=1 to see where")), arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: PreregError, arguments: Sequence[str], *, said: bool = False) -> NoReturn:
    """Say what is wrong, to a person unless that was done, and to a program that asked for JSON; and exit."""
    for problem in () if said else error.problems:
        show.err.print(f"[red]error:[/] {escape(str(problem))}")
    if "--json" in arguments:
        problems = [{"where": p.where, "found": p.found, "todo": p.todo} for p in error.problems]
        show.print_json({"exit_code": error.exit_code, "problems": problems})
    sys.exit(error.exit_code)


class _InOrder(click.Group):
    """A group that lists its verbs in the order of the work, under what each part of it is for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        for part, verbs in _VERBS.items():
            with formatter.section(part):
                formatter.write_dl([(str(verb.name), said) for verb, said in verbs.items()])


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prereg-moe")
def cli() -> None:
    """Checkable causal claims about mixture-of-experts language models.

    Write a registration, freeze it, run it, judge it, report it; let anyone audit it. New here? `prereg-moe demo` does
    all of that in a few minutes, `prereg-moe init .` begins your own. `prereg-moe VERB --help` has an example of each.

    Exit codes: 0 done - 1 a manuscript's claim is not supported - 2 wrong usage or invalid document - 3 tampered -
    4 evidence missing - 5 deviated from the registration - 6 the run stopped.
    """


_VERBS: dict[str, dict[click.Command, str]] = {  # what a part of the work is -> its verbs, in order, in a line each
    "Begin": {
        study.demo: "Do the whole job on embedded models.",
        prepare.init: "Write a commented registration to start from.",
        prepare.inspect: "Show the layers, routers and experts of a local model.",
    },
    "Before the run": {
        prepare.check: "Report every problem of a registration.",
        prepare.atlas: "Record the routing of the models: observation only.",
        prepare.diagnose: "Simulate the rule where the truth is known.",
        prepare.freeze: "Pin every byte; from here on nothing changes.",
    },
    "Run and judge": {
        study.run: "Compute the missing conditions; killed, it goes on.",
        elsewhere.import_: "Or take in published numbers, rows, runs of lm_eval.",
        study.verdict: "Judge the evidence by the registered rules.",
        study.report: "Render the verdicts: text, tables, figures.",
        study.status: "Say where each registration stands.",
    },
    "Show that it is what it says": {
        integrity.audit: "Recompute everything from the bytes, without the model.",
        study.rescore: "Let lm-eval score the stored responses again.",
        integrity.attack: "Play every known cheat on a copy of a study.",
        trust: "Let others vouch: signature, time stamp, challenge.",
        integrity.bundle: "Pack a study into one archive that audit opens.",
    },
    "When plans change": {
        changing.amend: "Supersede a frozen registration before its run.",
        changing.look: "Take an interim look that is registered.",
        changing.deviate: "Record a departure once the run began.",
    },
}

for _command in (verb for verbs in _VERBS.values() for verb in verbs):
    cli.add_command(_command)
