"""Names of the loggers of a run. They do not change what is trained."""

from typing import Literal, get_args

LoggerName = Literal["tensorboard", "mlflow", "wandb"]
LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)
DEFAULT_LOGGERS: tuple[LoggerName, ...] = ("tensorboard",)
