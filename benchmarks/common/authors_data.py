"""Dataset folders of the sets in the format of the DIEN authors' program."""

from pathlib import Path

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.preparation.sources import authors


def prepared_sets(
    folder: Path, out: Path, *, every_event: bool = False, valid_share: float = 0.1
) -> dict[str, Dataset]:
    """Prepare every set unless it is there; return data sets by name.

    Args:
      folder: one folder for each set.
      out: the dataset folders are made in ``out/data``.
      every_event: train on every event of a history, not only on the last.
      valid_share: share of users set aside for validation.
    """
    datasets = {}
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = f"{source.name}{'-every-event' if every_event else ''}-{valid_share:g}"
        data = out / "data" / name
        if not data.exists():
            data.parent.mkdir(parents=True, exist_ok=True)
            options = authors.AuthorsOptions(
                source, data, every_event=every_event, valid_share=valid_share
            )
            authors.prepare(options)
        datasets[source.name] = open_dataset(data)
    return datasets
