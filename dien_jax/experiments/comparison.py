"""Comparison of runs: tables of metrics and settings, and differences with intervals."""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dien_jax.config.presets import WARM_START, flat_settings
from dien_jax.data.arrays import Check, read_array
from dien_jax.data.dataset import Dataset, data_digest, open_dataset
from dien_jax.data.schema import UNKNOWN
from dien_jax.errors import UserError
from dien_jax.metrics import hit_rate, mean_over_users, ndcg
from dien_jax.metrics.intervals import RESAMPLES, Difference, bootstrap, delong, paired_seeds
from dien_jax.metrics.scores import METRICS
from dien_jax.runs.folder import NAME_DATA, ListMetrics, Run, open_own_data
from dien_jax.runs.summary import (
    LISTS_FILE,
    SCORES_FILE,
    BaselineRun,
    RunSummary,
    SeedGroup,
    load_summaries,
    seed_groups,
    setting_text,
)
from dien_jax.runs.trained import score_split
from dien_jax.utils.console import aligned, say, stage

_ABSENT = "-"
Pairs = list[tuple[RunSummary, RunSummary]]  # runs, each with the run that it is compared with


def compare_runs(
    folders: Sequence[str | Path], split: str = "test", data: str | Path | None = None
) -> Iterator[str]:
    """Compare each run with the first, or with the run of its seed and the first's settings.

    Args:
      folders: folders of runs and of baselines, see :func:`run_baselines`.
      split: ``"test"`` or ``"valid"``, the examples that differences are computed on.
      data: the dataset folder, which must be that of the first run, if it has moved.

    Yields:
      The sections as text, each a table: the runs; means over runs that differ only by seed;
      differences over seeds; lists, if they were measured; the settings that differ; differences of
      scores between runs of equal seed, and of lists that were measured in the same way. A section
      without rows is left out.

    Raises:
      UserError: if a run or the data cannot be used.

    >>> print(next(compare_runs(["runs/first"])).splitlines()[1].split()[:4])
    ['run', 'preset', 'data', 'seed']
    """
    if not folders:
        raise UserError("expected one or more run folders, found none")
    runs = load_summaries([Path(folder) for folder in folders])
    dataset = None if data is None else _data_of(runs[0], Path(data))
    for run in runs:
        if run.result is None:
            shown = "its best evaluation so far is shown, and no test metrics"
            command = f"python -m dien_jax.train --resume {run.folder}"
            say(f"{run.name} is unfinished: {shown}; resume it with {command}")
    yield from seed_tables(runs, split)
    if listed := [(run, run.lists) for run in runs if run.lists is not None]:
        yield _list_table(listed)
    if settings := _settings_table(seed_groups(runs)):
        yield settings
    first, *others = runs
    if others and first.result is None:
        say(f"no paired differences: the first run, {first.name}, is unfinished")
        return
    same = [run for run in others if run.run.data_digest == first.run.data_digest]
    for run in (run for run in others if run not in same):
        why = f"it was trained on other data, {run.run.data}"
        pair = f"no paired difference of {run.name} to {first.name}"
        say(f"{pair}: {why}, so there are no scores of the same examples")
    group = seed_groups(runs)[0]
    if pairs := _pairs(group, [run for run in same if run.result is not None]):
        about = first.run.data, first.run.data_digest
        dataset = dataset or open_own_data(*about, first.folder, NAME_DATA)
        yield _pair_table(group, pairs, split, dataset)
        if differences := _list_differences(group, pairs, dataset):
            yield differences


def _list_table(listed: Sequence[tuple[RunSummary, ListMetrics]]) -> str:
    rates = ["HR@10", "95% (users)", "of popularity", "of sequential rules", "NDCG@10", "MRR"]
    rows = [["run", "data", *rates, "coverage", "mean popularity", "clicks"]]
    for run, lists in listed:
        simple = lists["hr_10_popularity"], lists.get("hr_10_sequential_rules")
        values = lists["hr_10"], *simple, lists["ndcg_10"], lists["mrr"], lists["coverage"]
        cells = [_ABSENT if value is None else f"{value:.4f}" for value in values]
        ends, popularity = lists.get("hr_10_interval"), lists["mean_popularity"]
        cells.insert(1, _ABSENT if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}")
        cells.append(_ABSENT if popularity is None else f"{popularity:,.1f}")
        rows.append([run.name, Path(run.run.data).name, *cells, f"{lists['targets']:,}"])
    text = f"lists over all items, test split\n{aligned(rows, left=2)}"
    digest = listed[0][0].run.data_digest
    ways = {run.name: _measured(lists) for run, lists in listed if run.run.data_digest == digest}
    if len({*ways.values()}) > 1:
        measured = ", ".join(f"{name} ({way})" for name, way in ways.items())
        command = "python -m dien_jax.evaluate RUN --ranking"
        text += f"\nmeasured in different ways, and compared where alike: {measured}"
        text += f"; {command} measures all alike"
    return text


def _measured(lists: ListMetrics) -> str:
    """Describe how lists were measured; only those measured in the same way are compared."""
    return f"{lists['targets']:,} clicks" + (", as recommend lists" if lists["mrr"] is None else "")


def _list_differences(first: SeedGroup, pairs: Pairs, dataset: Dataset) -> str:
    """Return the differences of lists between runs, if they were measured in the same way."""
    rows = [[f"lists, difference to {_compared_to(first, pairs)}", "", "difference", "95% (users)"]]
    users = np.asarray(dataset.splits["test"].group)
    for run, baseline in pairs:
        if not (run.lists and baseline.lists) or _measured(run.lists) != _measured(baseline.lists):
            continue
        ours, theirs = run.lists.get("ranks"), baseline.lists.get("ranks")
        if not (ours and theirs) or ours.keys() != theirs.keys():
            continue
        examples = list(ours)
        if max(examples) >= len(users):
            found = f"expected ranks of examples below {len(users)}, found one of {max(examples)}"
            raise UserError(f"{run.folder / LISTS_FILE}: {found}; remove it")
        first_ranks, second_ranks = (
            np.array([of_run[k] or np.inf for k in examples]) for of_run in (ours, theirs)
        )
        for label, gain in {"HR@10": hit_rate, "NDCG@10": ndcg}.items():
            mean = mean_over_users(gain(first_ranks) - gain(second_ranks), users[examples])
            cells = ("undefined", "") if mean is None else _cells(mean)[:2]
            rows.append([run.name, label, *cells])
    return aligned(rows, left=2) if len(rows) > 1 else ""


def seed_tables(runs: Sequence[RunSummary], split: str = "test") -> Iterator[str]:
    """Yield the tables of runs, of means over their seeds, and of differences over seeds."""
    groups = seed_groups(runs)
    yield _run_table(runs)
    if several := [group for group in groups if len(group.finished) > 1]:
        yield f"mean ± deviation over seeds\n{_seed_table(several)}"
    if seeds := _seed_differences(groups, split):
        yield seeds


def _data_of(run: RunSummary, folder: Path) -> Dataset:
    """Return the dataset of a folder, which must be the one that a run was trained on."""
    dataset = open_dataset(folder)
    if data_digest(dataset) != run.run.data_digest:
        problem = f"is not the data that {run.name} was trained on (its meta.json differs)"
        raise UserError(f"{dataset.path} {problem}, so scores on it cannot be compared")
    return dataset


def _run_table(runs: Sequence[RunSummary]) -> str:
    upper, lower = metric_headers("run", "preset", "data", "seed", "best step")
    rows = [[*upper, ""], [*lower, "examples/s"]]
    for run in runs:
        cells = [run.name + ("" if run.result else " (unfinished)"), run.run.preset]
        cells += [Path(run.run.data).name, str(run.run.seed)]
        cells += [f"{run.best_step:,}" if run.best_step else _ABSENT]
        metrics = [run.metrics(split) or {} for split in ("valid", "test")]
        cells += [m.text(values, absent=_ABSENT) for values in metrics for m in METRICS.values()]
        rows.append([*cells, f"{run.speed:,.0f}" if run.speed else _ABSENT])
    return aligned(rows, left=3)


def _seed_table(groups: Sequence[SeedGroup]) -> str:
    rows = metric_headers("runs", "seeds")
    for group in groups:
        rows.append([group.name, str(len(group.finished))])
        for split, name in itertools.product(("valid", "test"), METRICS):
            values = list(group.by_seed(split, name).values())
            if len(values) < len(group.finished):
                rows[-1].append(_ABSENT)
            else:
                mean, deviation = statistics.mean(values), statistics.stdev(values)
                rows[-1].append(f"{mean:.4f} ± {deviation:.4f}")
    return aligned(rows, left=1)


def _settings_table(groups: Sequence[SeedGroup]) -> str:
    header, settings, count = ["settings that differ"], [], 0
    for group in groups:
        if isinstance(run := group.members[0].run, Run):
            start = {WARM_START: run.warm_start and run.warm_start["run"]}
            settings.append(flat_settings(run.config) | start)
            header.append(group.name)
            count += len(group.members)
    rows = []
    for name in settings[0] if settings else ():
        values = [of_group[name] for of_group in settings]
        if len(set(map(repr, values))) > 1:
            rows.append([name, *map(setting_text, values)])
    if not rows:
        return "all settings are the same" if count > 1 else ""
    return aligned([header, *rows], left=1)


def _seed_differences(groups: Sequence[SeedGroup], split: str) -> str:
    """Return the mean differences from the first group over common seeds."""
    first, *others = groups
    rows = []
    for group in others:
        if group.members[0].run.data_digest != first.members[0].run.data_digest:
            continue
        for name, metric in METRICS.items():
            ours, theirs = group.by_seed(split, name), first.by_seed(split, name)
            seeds = sorted(set(ours) & set(theirs))
            mean = paired_seeds([ours[s] for s in seeds], [theirs[s] for s in seeds])
            if mean is not None:
                rows.append([group.name, metric.label, str(len(seeds)), *_cells(mean)])
    if not rows:
        return ""
    title = f"{split}, mean difference to {first.name} over seeds"
    return aligned([[title, "", "seeds", "difference", "95% (t)", "p"], *rows], left=2)


def _pairs(first: SeedGroup, runs: Sequence[RunSummary]) -> Pairs:
    """Pair each run with the run of its seed in the first group, or with the group's first run.

    A baseline has no seed. The first group's run of each seed is not paired with itself.
    """
    others = {seed: run for seed, run in first.finished.items() if isinstance(run.run, Run)}
    pairs = []
    for run in runs:
        baseline = others.get(run.run.seed) if isinstance(run.run, Run) else None
        if run is not baseline:
            pairs.append((run, baseline or first.members[0]))
    return pairs


def _compared_to(first: SeedGroup, pairs: Pairs) -> str:
    several = len({baseline.name for _, baseline in pairs}) > 1
    return f"the run of {first.name} with equal seed" if several else first.members[0].name


def _pair_table(first: SeedGroup, pairs: Pairs, split: str, dataset: Dataset) -> str:
    examples = dataset.splits[split]
    labels, users = np.asarray(examples.label), np.asarray(examples.group)
    known = np.asarray(examples.item) != UNKNOWN
    of_baseline = {run.name: _scores(run, dataset, split) for _, run in pairs}
    title = f"{split}, difference to {_compared_to(first, pairs)}"
    rows = [[title, "", "difference", "95% (users)", "95% (DeLong)", "p"]]
    notes = []
    for run, baseline in pairs:
        scores, others = _scores(run, dataset, split), of_baseline[baseline.name]
        with stage(f"resampling users for {run.name}"):
            over_users = bootstrap(labels, scores, others, users, known=known)
        for name, metric in METRICS.items():
            cells = ["undefined", "", "", ""]
            if (difference := over_users[name]) is not None:
                counted = metric.counted(known, labels, scores, others)
                exact = delong(*counted) if metric.interval == "delong" else None
                cells = [*_cells(difference)[:2], *(_cells(exact)[1:] if exact else ("", ""))]
            rows.append([run.name, metric.label, *cells])
        seeds = {one.run.seed for one in (run, baseline) if isinstance(one.run, Run)}
        if len(seeds) > 1:
            notes.append(f"{run.name} differs from {baseline.name} by its seed too")
    dataset.check_files()
    sizes = f"{len(labels):,} examples of {len(np.unique(users)):,} users"
    how = f"who are resampled {RESAMPLES:,} times; DeLong takes examples as independent"
    return "\n".join([aligned(rows, left=2), f"{sizes}, {how}", *notes])


def _scores(run: RunSummary, dataset: Dataset, split: str) -> np.ndarray:
    """Return the scores of a split: computed for a run, stored ones for a baseline."""
    if not isinstance(run.run, BaselineRun):
        return score_split(run.folder, split, data=dataset).scores
    file, count = run.folder / SCORES_FILE.format(split), len(dataset.splits[split].label)
    is_probability: Check = (lambda scores: (scores >= 0) & (scores <= 1), "a probability")
    try:
        return np.array(read_array(file, np.float32, count, is_probability))
    except UserError as error:
        raise UserError(f"{error}; remove it") from error


def _cells(difference: Difference) -> tuple[str, str, str]:
    """Return the difference, its interval and its p-value as text."""
    value, _, low, high, p = difference
    p_text = "" if p is None else "< .0001" if p < 1e-4 else f"{p:.4f}"
    return f"{value:+.4f}", f"{low:+.4f} to {high:+.4f}", p_text


def metric_headers(*columns: str) -> list[list[str]]:
    """Return the two header rows for some columns and every metric of both splits."""
    gap = [""] * (len(METRICS) - 1)
    labels = [metric.label for metric in METRICS.values()]
    return [[*[""] * len(columns), "validation", *gap, "test", *gap], [*columns, *labels, *labels]]
