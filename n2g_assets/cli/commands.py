"""Every command of ``n2g``: what it takes, its help with an example, and its exit code.

Exit codes: 0 it succeeded, 1 it failed in a way that one sentence explains, 2 it was called wrongly, 130 it was
interrupted. Nothing heavy is imported before a command needs it, so that help and the reading commands start at once.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from n2g_assets.core.errors import N2GError


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; its exit code."""
    try:
        return n2g.main(arguments, prog_name="n2g", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except N2GError as error:
        click.echo(str(error), err=True)
        return 1
    except click.Abort:  # what click makes of Ctrl-C
        return 128 + signal.SIGINT


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="n2g_assets")
def n2g() -> None:
    """Neurons of a language model as token graphs: run studies, and look at what came out.

    Data lies in $N2G_HOME (default: .n2g beside the project).
    """


def command(example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of ``n2g``; its help ends with an example."""
    return n2g.command(epilog=f"Example: {example}")


as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON.")
study_argument = click.argument("study")
layers_option = click.option("--layers", help="Some of its layers, such as 7 or 0,7,15 or 0...7.  [default: all]")


# ------------------------------------------------------------------------------------------ runs
@command("n2g demo")
@click.option("--study", help="Another study instead: its name, or its defs.yaml.")
def demo(study: str | None) -> int:
    """Materialize the study 'demo' and its control."""
    from n2g_assets.cli import runs

    return runs.in_home(lambda home: runs.run_study(home, study) if study else runs.run_demo(home))


@command("n2g run smollm2 --layers 0,7")
@study_argument
@layers_option
def run(study: str, layers: str | None) -> int:
    """Materialize a study and show what came out.

    STUDY is its name, or any study's defs.yaml. What is fresh is reused, and a run that was ended goes on.
    """
    from n2g_assets.cli import runs

    return runs.in_home(lambda home: runs.run_study(home, study, layers))


@command("n2g plan smollm2 --machines 8 --device h100")
@study_argument
@layers_option
@click.option("--machines", default=1, show_default=True, type=click.IntRange(1), help="Machines that share its steps.")
@click.option("--device", help="What runs the model, such as h100; 40 % of its peak counts.")
@click.option("--flops", type=float, help="Instead: operations a second, such as 4e14.")
@click.option("--tokens-a-second", type=float, help="Instead: of a pass through all layers.")
@click.option("--tokens", type=click.IntRange(1), help="Of the harvest.  [default: harvest.max_tokens]")
@click.option("--config", type=click.Path(path_type=Path), help="The model's config.json, or its folder.")
def plan(study: str, layers: str | None, machines: int, **elsewhere: Any) -> int:
    """Say what a run takes: steps, disk, memory, time.

    STUDY is its name, or any study's defs.yaml. Its model and corpus are read and a pass is timed, unless a rate is
    stated: then the model's config.json is enough (docs/planning.md).
    """
    from n2g_assets.assets.rates import Elsewhere
    from n2g_assets.cli import runs

    stated = Elsewhere(**elsewhere)
    return runs.in_home(lambda home: runs.plan_study(home, study, layers, machines, stated))


@command("n2g worker --queues dagster")
@click.option("--queues", help="Some of them, such as dagster,gpu.  [default: dagster, and $N2G_MODEL_QUEUE]")
def worker(queues: str | None) -> int:
    """Take steps of runs whose executor is celery.

    One step at a time: start as many as a machine has GPUs, or as its memory allows. Ctrl-C ends it after its step. The
    broker is $N2G_BROKER, Dagster's database $N2G_POSTGRES (docs/machines.md).
    """
    from n2g_assets.cli import runs, working

    return runs.in_home(lambda _home: working.work(queues))


@command("n2g ui --port 3001")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> int:
    """Open the Dagster UI on this machine."""
    from n2g_assets.cli import runs

    return runs.in_home(lambda _home: runs.open_ui(port))


@command('eval "$(n2g init)"')
def init() -> None:
    """Make the home ready, and print the line that dg needs."""
    from n2g_assets.cli import runs

    runs.say_environment()


# ------------------------------------------------------------------------------------------ reading
@command("n2g explore --port 9000")
@click.option("--port", default=8777, show_default=True, type=click.IntRange(1, 65535))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--with-model", is_flag=True, help="Load the subject model: what units really do on texts of your own.")
def explore(port: int, host: str, with_model: bool) -> None:
    """Serve the pages of all published studies."""
    from n2g_assets.cli import serving

    serving.explore(host, port, with_model=with_model)


@command("n2g studies")
@as_json
def studies(as_json: bool) -> None:
    """List the published studies with their scores.

    These are means over the units of a layer, on held-out text, of the whole graphs: r with its 95% interval, average
    precision, and F1 of firing. F1 is over all units asked for, those without one counted 0; r and average precision
    are over the units that have them.
    """
    from n2g_assets.cli import reading

    reading.studies(as_json)


@command("n2g sql \"FROM units_on('the')\"")
@click.argument("statement")
@as_json
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 1_000_000), help="Rows at the most.")
def sql(statement: str, as_json: bool, as_csv: bool, limit: int) -> None:
    """Ask the published database in SQL.

    STATEMENT is one statement that reads, such as SELECT, FROM, DESCRIBE or SUMMARIZE. Time, memory and rows are
    limited, and no file can be read. What there is: n2g sql "SHOW TABLES", and docs/tables.md.
    """
    from n2g_assets.cli import reading

    if as_json and as_csv:
        raise click.UsageError("Give --json or --csv, not both.")
    reading.sql(statement, "json" if as_json else "csv" if as_csv else "table", limit)


@command("n2g predict --study demo --layer 7 --unit 669 'Julia smiled'")
@click.option("--study", required=True, help="A published study.")
@click.option("--layer", required=True, type=click.IntRange(0))
@click.option("--unit", required=True, type=click.IntRange(0), help="Index of the neuron, latent or head in its layer.")
@click.option("--sign", default="1", type=click.Choice(["1", "-1"]), show_default=True, help="-1: its negation.")
@click.option("--tokenizer", type=click.Path(), help="Folder of the model's tokenizer.json, where it is not found.")
@click.argument("text", required=False)
@as_json
def predict(
    study: str, layer: int, unit: int, sign: str, tokenizer: str | None, text: str | None, as_json: bool
) -> None:
    """Predict a unit on a text, token by token.

    Says of each token the prediction, as a share of the unit's largest activation, and the rule that spoke. Without
    TEXT it is read from standard input.
    """
    from n2g_assets.cli import reading

    text = sys.stdin.buffer.read().decode("utf-8", "replace") if text is None else text
    reading.predict(study, layer, unit, int(sign), text, tokenizer, as_json)


# ------------------------------------------------------------------------------------------ exporting
out_argument = click.argument("out", type=click.Path(path_type=Path))
force_option = click.option("--force", is_flag=True, help="Replace an earlier export in OUT.")


@command("n2g export-site site --study demo")
@out_argument
@click.option("--study", "studies", required=True, multiple=True, help="A published study; may be given several times.")
@force_option
def export_site(out: Path, studies: tuple[str, ...], force: bool) -> None:
    """Write studies as static pages, to be hosted anywhere.

    OUT is a new folder. Its index.html opens from a disk as well. Trying a text, comparing and searching by context are
    left to n2g explore.
    """
    from n2g_assets.cli import exporting

    exporting.export_site(out, studies, force)


@command("n2g export-neuronpedia neuronpedia --study demo")
@out_argument
@click.option("--study", required=True, help="A published study.")
@click.option(
    "--model-id", help="Neuronpedia's name of the model, such as gpt2-small.  [default: the study's name of it]"
)
@force_option
def export_neuronpedia(out: Path, study: str, model_id: str | None, force: bool) -> None:
    """Write a study as the files that Neuronpedia imports.

    OUT is a new folder. It holds each unit with the tokens that it raises and lowers, its strongest contexts, an
    explanation made of its rules, and the scores of these rules.
    """
    from n2g_assets.cli import exporting

    exporting.export_neuronpedia(out, study, model_id, force)


@command("n2g export-contexts contexts.parquet --study demo")
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--study", required=True, help="A published study.")
@force_option
def export_contexts(out: str, study: str, force: bool) -> None:
    """Write the contexts on which units are scored.

    OUT is a Parquet file, with a row a context: its texts, its token ids and its tokens. What an explanation predicts
    there is scored by the study's setting 'explanations' (docs/settings.md).
    """
    from n2g_assets.cli import reading

    reading.export_contexts(study, Path(out), force)


# ------------------------------------------------------------------------------------------ cleaning
@command("n2g clean --yes")
@click.argument("study", required=False)
@click.option("--yes", is_flag=True, help="Remove it.")
@as_json
def clean(study: str | None, yes: bool, as_json: bool) -> None:
    """Show what can be removed; --yes removes it.

    That is what no run reads any more. With STUDY it is all that belongs to this study alone, with its rows and its
    report: another run makes them anew, from its first pass on.
    """
    from n2g_assets.cli import cleaning

    cleaning.clean(study, yes, as_json)
