"""Search hyperparameters with Optuna by validation AUC; the test split is never scored.

    python examples/tune.py DATA --out FOLDER [--preset dien] [--trials 20]

DATA is a dataset folder. A trial that falls behind the others at an evaluation is pruned, and one
that diverges fails. FOLDER/study.db stores the trials, so the same command resumes a stopped
search. Pass FOLDER/best.json to ``python -m dien_jax.train --preset-file``. To search other
settings, change :func:`suggested`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import optuna

from dien_jax import open_dataset, preset
from dien_jax.config.presets import with_settings, write_preset_file
from dien_jax.errors import NotFiniteError, UserError
from dien_jax.runs.folder import Run
from dien_jax.training.loop import Trainer


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    """Return the settings of a trial, keyed by dotted name."""
    return {
        "optim.learning_rate": trial.suggest_float("optim.learning_rate", 1e-4, 1e-2, log=True),
        "model.embedding_size": trial.suggest_int("model.embedding_size", 8, 64, log=True),
        "model.dropout": trial.suggest_float("model.dropout", 0.0, 0.5),
        "train.batch_size": trial.suggest_categorical("train.batch_size", [64, 128, 256, 512]),
    }


def main() -> None:
    """Search, and write the best settings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="wide_dien")
    parser.add_argument("--trials", type=int, default=20)
    arguments = parser.parse_args()
    name, base, dataset = arguments.preset, preset(arguments.preset), open_dataset(arguments.data)

    def validation_auc(trial: optuna.Trial) -> float:
        config = with_settings(base, suggested(trial))
        run = Run.create(preset=name, seed=0, dataset=dataset, config=config)
        trainer, best = Trainer(run, dataset, checkpoints=None), 0.0
        for number, evaluation in enumerate(trainer.evaluations(lambda report: None)):
            best = max(best, evaluation["valid"]["auc"])
            print(f"trial {trial.number}, evaluation {number}: best validation AUC {best:.4f}")
            trial.report(best, number)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    arguments.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{arguments.out}/study.db",
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    study.optimize(validation_auc, n_trials=arguments.trials, catch=NotFiniteError)
    if not study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
        raise UserError(f"{arguments.out}/study.db: no trial is complete; try more (--trials)")
    file = arguments.out / "best.json"
    write_preset_file(file, name, with_settings(base, study.best_params))
    print(f"validation AUC {study.best_value:.4f}: {study.best_params}")
    print(f"python -m dien_jax.train --preset-file {file} --data {arguments.data}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, UserError) as error:
        sys.exit(f"error: {error}")
