"""Runs side by side: the command line ``python -m dien_jax.compare``.

    python -m dien_jax.compare RUN RUN ... [--split test] [--out FOLDER] [--data DIR]

Standard output carries a line a run, means over runs that differ by seed only, the settings that
differ, and the differences of every run to the first with two 95% intervals: DeLong's, which takes
examples as independent, and one over resampled users, which takes users as that. Differences need
scores of the same examples: a run that is unfinished, or was trained on other data than the first,
is in the table and the curves but has none, as standard error says. Runs are left as they are;
``--out`` gets ``compare.png`` and keeps the scores for the next time. Exit status: 0, or 2 for a
mistake in flags or files.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from dien_jax.config.preset_files import WARM_START, flat_settings
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.errors import UserError
from dien_jax.experiments.curves import draw_comparison
from dien_jax.metrics.intervals import RESAMPLES, Difference, bootstrap, delong, paired_seeds
from dien_jax.runs.folder import CONFIG_FILE, RESULT_FILE
from dien_jax.runs.scoring import best_scores
from dien_jax.runs.summary import RunSummary, SeedGroup, load_summaries, seed_groups
from dien_jax.utils.command import run_command
from dien_jax.utils.console import say, stage
from dien_jax.utils.files import atomic_path

METRICS = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}
_ABSENT = "-"


@dataclass(frozen=True)
class Arguments:
    """Compare runs: metrics, settings that differ, and differences to the first with intervals."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders that dien_jax.train made; the others are compared with the first."""
    split: Literal["test", "valid"] = "test"
    """Which examples the differences are of."""
    out: Path | None = None
    """Folder to make for compare.png and the runs' scores, which are computed once."""
    data: Path | None = None
    """Dataset folder, where it has moved; the first run's own when not given."""


def compare(arguments: Arguments) -> None:
    """Prints the comparison, and draws curves into the ``--out`` folder.

    Raises:
      UserError: when a folder holds no run, a run or the data cannot be read, or ``--out`` cannot
        be written.
    """
    if not arguments.runs:
        raise UserError("which runs? Give one or more run folders")
    members = load_summaries(arguments.runs)
    for member in members:
        if member.result is None:
            say(
                f"{member.name} is unfinished: its best evaluation so far is shown, and no test "
                f"figures; go on with python -m dien_jax.train --resume {member.folder}"
            )
    groups = seed_groups(members)
    print(_run_table(members))
    several = [group for group in groups if len(group.finished) > 1]
    if several:
        print(f"\nmean ± deviation over seeds\n{_seed_table(several)}")
    print(f"\n{_settings_table(groups)}")
    if arguments.out is not None:
        try:
            arguments.out.mkdir(parents=True, exist_ok=True)
            picture = draw_comparison(groups, arguments.out)
        except OSError as error:
            raise UserError(f"--out {arguments.out} cannot be written: {error.strerror}") from error
        if picture is not None:
            say(f"curves: {picture}")
    seeds = _seed_differences(groups, arguments.split)
    if seeds:
        print(f"\n{seeds}")
    pairs = _comparable(members)
    if pairs:
        print(f"\n{_pair_table(members[0], pairs, arguments)}")


def _comparable(members: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs whose scores can be compared with the first's; says why others cannot."""
    first, *others = members
    if others and first.result is None:
        say(f"no paired differences: the first run, {first.name}, is unfinished")
        return []
    found = []
    for member in others:
        if member.run.data_digest != first.run.data_digest:
            say(
                f"no paired difference of {member.name} to {first.name}: it was trained on other "
                f"data, {member.run.data}, so there are no scores of the same examples"
            )
        elif member.result is not None:
            found.append(member)
    return found


def _run_table(members: Sequence[RunSummary]) -> str:
    rows = [
        ["", "", "", "", "", "validation", "", "", "test", "", "", ""],
        ["run", "preset", "data", "seed", "best step", *METRICS.values(), *METRICS.values(),
         "examples/s"],
    ]  # fmt: skip
    for member in members:
        row = [
            member.name + ("" if member.result else " (unfinished)"),
            member.run.preset,
            Path(member.run.data).name,
            str(member.run.seed),
            f"{member.best_step:,}" if member.best_step else _ABSENT,
        ]
        for split in ("valid", "test"):
            row += [_metric(member.metrics(split), name) for name in METRICS]
        rows.append([*row, f"{member.speed:,.0f}" if member.speed else _ABSENT])
    return _aligned(rows, left=3)


def _seed_table(groups: Sequence[SeedGroup]) -> str:
    rows = [
        ["", "", "validation", "", "", "test", "", ""],
        ["runs", "seeds", *METRICS.values(), *METRICS.values()],
    ]
    for group in groups:
        cells = []
        for split in ("valid", "test"):
            for name in METRICS:
                values = list(group.by_seed(split, name).values())
                whole = len(values) == len(group.finished) and len(values) > 1
                cells.append(
                    f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" if whole else _ABSENT
                )
        rows.append([group.name, str(len(group.finished)), *cells])
    return _aligned(rows, left=1)


def _settings_table(groups: Sequence[SeedGroup]) -> str:
    runs = [group.members[0].run for group in groups]
    settings = [
        flat_settings(run.config) | {WARM_START: (run.warm_start or {}).get("run")} for run in runs
    ]
    rows = [
        [name, *(_setting(values[name]) for values in settings)]
        for name in settings[0]
        if len({repr(values[name]) for values in settings}) > 1
    ]
    if not rows:
        return "all settings are the same" if len(groups[0].members) + len(groups) > 2 else ""
    return _aligned([["settings that differ", *(group.name for group in groups)], *rows], left=1)


def _seed_differences(groups: Sequence[SeedGroup], split: str) -> str:
    """Mean differences to the first group over the seeds that both have, where two are."""
    first, *others = groups
    rows = []
    for group in others:
        for name, text in METRICS.items():
            ours, theirs = group.by_seed(split, name), first.by_seed(split, name)
            seeds = sorted(set(ours) & set(theirs))
            if group.members[0].run.data_digest != first.members[0].run.data_digest:
                continue
            found = paired_seeds([ours[s] for s in seeds], [theirs[s] for s in seeds])
            if found is not None:
                rows.append([group.name, text, str(len(seeds)), *_interval(found), _p(found)])
    if not rows:
        return ""
    title = f"{split}, mean difference to {first.name} over seeds"
    return _aligned([[title, "", "seeds", "difference", "95% (t)", "p"], *rows], left=2)


def _pair_table(first: RunSummary, others: Sequence[RunSummary], arguments: Arguments) -> str:
    split, out = arguments.split, arguments.out
    dataset = open_dataset(Path(first.run.data) if arguments.data is None else arguments.data)
    if data_digest(dataset) != first.run.data_digest:
        raise UserError(
            f"{dataset.path} is not the data that {first.name} was trained on (its meta.json "
            f"differs), so scores on it cannot be compared"
        )
    examples = dataset.splits[split]
    labels, users = np.asarray(examples.label), np.asarray(examples.group)
    baseline = _scores(first, dataset, split, out)
    rows = []
    for member in others:
        scores = _scores(member, dataset, split, out)
        with stage(f"resampling users for {member.name}"):
            resampled = bootstrap(labels, scores, baseline, users)
        exact = delong(labels, scores, baseline)
        for name, text in METRICS.items():
            by_user = resampled[name]
            if by_user is None:
                rows.append([member.name, text, "undefined", "", "", ""])
                continue
            value, over_users = _interval(by_user)
            pairs = (_interval(exact)[1], _p(exact)) if name == "auc" and exact else ("", "")
            rows.append([member.name, text, value, over_users, *pairs])
    title = f"{split}, difference to {first.name}"
    header = [title, "", "difference", "95% (users)", "95% (DeLong)", "p"]
    return (
        _aligned([header, *rows], left=2)
        + f"\n{len(labels):,} examples of {len(np.unique(users)):,} users, who are resampled "
        f"{RESAMPLES:,} times; DeLong takes examples as independent"
    )


def _scores(member: RunSummary, dataset: Dataset, split: str, out: Path | None) -> np.ndarray:
    """Scores of a split, from the ``out`` folder if they are there, kept in it if there is one."""
    if out is None:
        return best_scores(member.folder, member.run, dataset, split)
    digest = hashlib.sha256(str(member.folder.resolve()).encode())
    for name in (CONFIG_FILE, RESULT_FILE):  # which tell when it was trained, and for how long
        digest.update((member.folder / name).read_bytes())
    name = member.name.replace("/", "-")
    file = out / f"predictions-{split}-{name}-{digest.hexdigest()[:12]}.npy"
    if file.exists():
        try:
            kept = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} cannot be read; remove it: {error}") from error
        if kept.shape != dataset.splits[split].label.shape:
            raise UserError(f"{file} has {kept.shape} scores, of other data; remove it")
        return kept
    scores = best_scores(member.folder, member.run, dataset, split)
    try:
        with atomic_path(file) as partial, partial.open("wb") as stream:
            np.save(stream, scores)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    return scores


def _metric(metrics: dict[str, Any] | None, name: str) -> str:
    if metrics is None or name not in metrics:
        return _ABSENT
    return "none" if metrics[name] is None else f"{metrics[name]:.4f}"


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _interval(found: Difference) -> tuple[str, str]:
    return f"{found.value:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"


def _p(found: Difference) -> str:
    if found.p_value is None:
        return ""
    return "< .0001" if found.p_value < 1e-4 else f"{found.p_value:.4f}"


def _aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Columns under each other, the first ``left`` flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        pad: list[Callable[[str, int], str]] = [
            str.ljust if number < left else str.rjust for number in range(len(row))
        ]
        cells = (
            pad[k](cell, width) for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_command(
        lambda: tyro.cli(Arguments, args=argv, prog="python -m dien_jax.compare"), compare
    )


if __name__ == "__main__":
    sys.exit(main())
