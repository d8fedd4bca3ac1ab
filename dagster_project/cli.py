"""The console script `rid`. Heavy modules load with the command that needs them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import click
import typer

from rid.dagster_project import exit_codes
from rid.dagster_project.commands.study import study
from rid.dagster_project.commands.train import train
from rid.dagster_project.commands.train_embedded import train_embedded

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Protects photo catalogs against identity theft by personalised diffusion models.",
)
defenders_app = typer.Typer(no_args_is_help=True, help="Which defenders there are, and which one is the default.")
drops_app = typer.Typer(no_args_is_help=True, help="The drops that Dagster knows.")
app.add_typer(defenders_app, name="defenders")
app.add_typer(drops_app, name="drops")
app.command("train")(train)
app.command("study")(study)
app.add_typer(train_embedded, name="train-embedded")

INTERRUPTED = "interrupted: run the same command again to continue"

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command()
def protect(
    source: Annotated[str, typer.Argument(help="Folder, s3 prefix, Parquet file or folder of Parquet files.")],
    target: Annotated[str, typer.Argument(help="Folder or s3 prefix; becomes a Delta table if SOURCE is Parquet.")],
    defender: Annotated[str, typer.Option(help="Alias, digest or path of a defender.")] = "default",
    budget: Annotated[int | None, typer.Option(help="Largest change of a value, 1-16 of 255 levels.")] = None,
    drop: Annotated[str | None, typer.Option(help="Name of this set of photos; by default a digest of SOURCE.")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(help="JSON file with a protection policy; by default policy.json under RID_HOME, if it is there."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler.", envvar="RID_SCHEDULER")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes; by default one a core, 0 for this process.")
    ] = None,
    retry: Annotated[
        list[str] | None, typer.Option(help="Try photos again that were held back or skipped for REASON.")
    ] = None,
    trust_marks: Annotated[
        bool, typer.Option("--trust-marks", help="Skip photos whose mark fits their pixels, known or not.")
    ] = False,
    known: Annotated[
        list[str] | None,
        typer.Option(help="TARGET of other runs whose photos count as known, beside this one's and RID_HOME's."),
    ] = None,
    allow_uri: Annotated[
        list[str] | None,
        typer.Option(help="Also read photos of a uri column under PREFIX, beside the source's own folder or bucket."),
    ] = None,
    image_column: Annotated[
        list[str] | None,
        typer.Option(help="Also protect the pictures in COLUMN of Parquet; a row is held back if one cannot be."),
    ] = None,
    pass_column: Annotated[
        list[str] | None,
        typer.Option("--pass", help="Publish COLUMN of Parquet as it is, although it holds pictures."),
    ] = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every photo again, even if its listing is unchanged.")
    ] = False,
    allow_insecure_scheduler: Annotated[
        bool, typer.Option("--allow-insecure-scheduler", help="Accept a scheduler on another machine without TLS.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it would take.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Protects every photo of SOURCE and writes it to TARGET; a second run continues or does nothing."""
    from rid.assets.protection.options import ProtectionOptions
    from rid.dagster_project.commands.protect import Printing, read_policy
    from rid.dagster_project.commands.protect import protect as run
    from rid.resources.dask_workers import WorkerSettings

    options = ProtectionOptions(
        defender=defender,
        budget_levels=budget,
        policy=read_policy(policy),
        rehash=rehash,
        retry=tuple(retry or ()),
        trust_marks=trust_marks,
        known=tuple(known or ()),
        allowed_prefixes=tuple(allow_uri or ()),
        image_columns=tuple(image_column or ()),
        pass_columns=tuple(pass_column or ()),
    )
    settings = WorkerSettings(scheduler=scheduler, n_workers=workers, allow_insecure=allow_insecure_scheduler)
    return run(source, target, drop, options, settings, Printing(dry_run, as_json))


@app.command()
def verify(
    target: Annotated[str, typer.Argument(help="What `rid protect` or the asset protected_catalog wrote.")],
    source: Annotated[str | None, typer.Option(help="Where the originals lie now, if they moved.")] = None,
    as_json: Json = False,
) -> int:
    """Re-hashes everything published and compares it with the receipts."""
    from rid.dagster_project.commands.verify import verify as run

    return run(target, source=source, as_json=as_json)


@app.command()
def report(
    target: Annotated[str, typer.Argument(help="What `rid protect` or the asset protected_catalog wrote.")],
    drop: Annotated[str | None, typer.Option(help="One drop; by default each.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Frozen diffusion model to measure on: folder, hub id, or 'embedded', the one that ships."),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="Latent space to measure in: sd1, sdxl, sd3, flux1, folder, hub id, 'embedded'."),
    ] = None,
    photos: Annotated[int, typer.Option(help="Protected photos that are measured, a seeded sample.", min=2)] = 64,
    contact_sheet: Annotated[
        int, typer.Option(help="Photos on the contact sheet; 0 leaves it out: the report then shows no person.", min=0)
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the sample, the time steps and the noise.")] = 1001,
    out: Annotated[str | None, typer.Option(help="Folder or prefix; by default inside TARGET/_rid.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")] = None,
) -> int:
    """Writes a page on how the photos look and what protection does to diffusion models and in latent spaces."""
    from rid.dagster_project.commands.report import ReportOptions
    from rid.dagster_project.commands.report import report as run
    from rid.resources.dask_workers import WorkerSettings

    options = ReportOptions(drop, tuple(model or ()), tuple(space or ()), photos, contact_sheet, seed, out)
    return run(target, options, WorkerSettings(n_workers=workers))


@app.command()
def preview(
    photo: Annotated[str, typer.Argument(help="One photo: a file or an s3:// URL.")],
    levels: Annotated[str, typer.Option(help="Budgets to show, each 1-16 of 255 levels.")] = "2,4,6,8",
    defender: Annotated[str, typer.Option(help="Alias, digest or path of a defender.")] = "default",
    out: Annotated[Path | None, typer.Option(help="PNG file; by default PHOTO-preview.png here.")] = None,
) -> int:
    """Shows one photo at several strengths beside each other, with the change amplified."""
    from rid.dagster_project.commands.preview import preview as run

    return run(photo, out=out, defender=defender, levels=levels)


@app.command()
def forget(
    target: Annotated[str, typer.Argument(help="What `rid protect` or the asset protected_catalog wrote.")],
    keys: Annotated[list[str], typer.Argument(help="Photos, by their keys in the receipts.", metavar="KEY...")],
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Removes photos from outputs, receipts, catalogs and reports, and says where something of them is left."""
    from rid.dagster_project.commands.forget import forget as run

    return run(target, frozenset(keys), dry_run=dry_run, as_json=as_json)


@app.command()
def vacuum(
    target: Annotated[str, typer.Argument(help="What `rid protect` or the asset protected_catalog wrote.")],
    keep_days: Annotated[
        float, typer.Option(help="Younger files stay. 0 leaves no way back, and harms runs under way on S3.", min=0)
    ] = 30,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> int:
    """Deletes replaced shard files and catalogs: older versions of the table cannot be read after that."""
    from rid.dagster_project.commands.forget import vacuum as run

    return run(target, keep_days=keep_days, dry_run=dry_run, as_json=as_json)


@app.command()
def doctor() -> int:
    """Says what is installed, what works here, and the licence of the weights."""
    from rid.dagster_project.commands.doctor import doctor as run

    return run()


@defenders_app.command("list")
def defenders_list(as_json: Json = False) -> int:
    """Lists the registered and the shipped defenders."""
    from rid.dagster_project.commands.defenders import list_defenders

    return list_defenders(as_json=as_json)


@defenders_app.command("promote")
def defenders_promote(
    digest: Annotated[str, typer.Argument(help="Digest, alias or path of a defender.")],
    although_it_fails: Annotated[
        bool, typer.Option("--although-it-fails", help="Also one that was not measured, or fails its gates.")
    ] = False,
) -> int:
    """Makes a defender the default, if it passes its gates."""
    from rid.dagster_project.commands.defenders import promote

    return promote(digest, although_it_fails=although_it_fails)


@defenders_app.command("measure")
def defenders_measure(
    defender: Annotated[str, typer.Argument(help="Digest, alias or path of a defender.")],
    photos: Annotated[list[str], typer.Option(help="Parquet file of people, or folder with a folder a person.")],
    count: Annotated[int, typer.Option(help="Photos that are measured.", min=2)] = 64,
    people: Annotated[str | None, typer.Option(help="FIRST:LAST limits the people by name.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(help="Latent space that it claims; by default sd1, sdxl, sd3 and flux1."),
    ] = None,
    unseen: Annotated[
        list[str] | None, typer.Option(help="Latent space that it was not trained on; by default 'embedded'.")
    ] = None,
    side: Annotated[list[int] | None, typer.Option(help="Side of the photos; by default 256 and 512.", min=64)] = None,
    budget: Annotated[list[int] | None, typer.Option(help="Levels; by default the defender's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of noise and dither.")] = 0,
    as_json: Json = False,
) -> int:
    """Measures a defender on photos that it protects whole, and writes the figures into its card.

    A photo, space and budget cost about .9 CPU-seconds at 256 px and 4 at 512.
    """
    from rid.dagster_project.commands.defenders import MeasureOptions, measure
    from rid.resources.frozen.latent_spaces import SHORT_NAMES

    options = MeasureOptions(
        photos=tuple(photos),
        count=count,
        people=people,
        spaces=tuple(space or SHORT_NAMES),
        unseen=tuple(unseen if unseen is not None else ("embedded",)),
        sides=tuple(side or (256, 512)),
        budgets=tuple(budget or ()),
        seed=seed,
    )
    return measure(defender, options, as_json=as_json)


@defenders_app.command("import")
def defenders_import(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the RID authors, such as ASDS-eps-12_255.bin.")],
    name: Annotated[str | None, typer.Option(help="Short name; by default that of the file.")] = None,
    budget: Annotated[
        int | None, typer.Option(help="8-bit levels it was trained at, where the file's name does not say.")
    ] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads; 8 in every published checkpoint.")] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Transformer blocks, where the width is not the published 1152.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Reads a published checkpoint, registers it and prints its digest; nothing in the file is executed."""
    from rid.dagster_project.commands.defenders import import_published

    return import_published(file, name=name, budget=budget, heads=heads, blocks=blocks, as_json=as_json)


@defenders_app.command("export")
def defenders_export(
    name: Annotated[str, typer.Argument(help="Digest, alias or path of a defender.")],
    target: Annotated[str | None, typer.Argument(help="Folder or s3 prefix; by default ./defender-DIGEST.")] = None,
) -> int:
    """Writes a defender as a folder that can be copied elsewhere."""
    from rid.dagster_project.commands.defenders import export

    return export(name, target)


@drops_app.command("list")
def drops_list() -> int:
    """Lists the drops."""
    from rid.dagster_project.commands.drops import list_drops

    return list_drops()


@drops_app.command("add")
def drops_add(name: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '=' and '-'.")]) -> int:
    """Adds a drop, so that it can be materialised."""
    from rid.dagster_project.commands.drops import add_drop

    return add_drop(name)


def main() -> None:
    """Runs `rid`; an error is one sentence on stderr and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
        if code == exit_codes.INTERRUPTED:  # typer's answer to an interrupt
            _fail(INTERRUPTED, code)
        sys.exit(code if isinstance(code, int) else exit_codes.OK)
    except click.exceptions.NoArgsIsHelpError as usage:
        print(usage.format_message())
        sys.exit(exit_codes.OK)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as usage:
        _fail(usage.format_message(), exit_codes.INVALID_REQUEST)
    except (KeyboardInterrupt, click.Abort):
        _fail(INTERRUPTED, exit_codes.INTERRUPTED)
    except Exception as error:
        _fail(sentence(error), exit_code(error))


def exit_code(error: Exception) -> int:
    """The exit code of an error."""
    from rid.assets.protection.failure_budget import FailureBudgetExceeded

    if isinstance(error, FailureBudgetExceeded):
        return exit_codes.FAILURE_BUDGET
    return (
        exit_codes.INVALID_REQUEST if isinstance(error, ValueError | FileNotFoundError) else exit_codes.INTERNAL_ERROR
    )


def sentence(error: Exception) -> str:
    """An error as one line; set RID_DEBUG=1 to see where it was raised."""
    if os.environ.get("RID_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {text}"


def _fail(message: str, code: int) -> None:
    print(f"rid: {message}", file=sys.stderr)
    sys.exit(code)


def _terminate(_: int, __: FrameType | None) -> None:
    print("rid: terminated: run the same command again to continue", file=sys.stderr)
    sys.exit(exit_codes.TERMINATED)


if __name__ == "__main__":
    main()
