"""MLflow's own client of a tracking store (the extra `mlflow`), its errors as ours."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from joulebook.errors import ConfigError, JoulebookError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_THEIRS = frozenset({"sqlalchemy", "sqlite3", "requests", "urllib3"})


@contextlib.contextmanager
def client(uri: str) -> Iterator[MlflowClient]:
    """MLflow's client of a tracking store. Raises `ConfigError` without MLflow, or for its errors.

    `uri` is as MLflow takes it: `sqlite:///mlflow.db`, `./mlruns`, `https://...`.
    """
    place = uri.removeprefix("sqlite:///").partition("?")[0] if uri.startswith("sqlite:") else ""
    if place and not Path(place).is_file():
        # MLflow would make it: a wrong name must not become an empty store.
        raise ConfigError(f"MLflow at {uri}: no file {place}")
    if "://" not in uri or uri.startswith("file:"):
        # MLflow reads stores of files only where it is reported that this is meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy and others, and none of ours
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            from mlflow.exceptions import MlflowException  # noqa: PLC0415 - heavy, and optional
            from mlflow.tracking import MlflowClient  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"MLflow is not installed here ({error.name}): pip install 'joulebook[mlflow]'"
            ) from None
        try:
            yield MlflowClient(tracking_uri=uri)
        except JoulebookError:
            raise
        except (MlflowException, OSError) as error:
            raise ConfigError(f"MLflow at {shown(uri)}: {_said(error)}") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in _THEIRS:
                raise
            raise ConfigError(f"MLflow at {shown(uri)}: {_said(error)}") from None


def shown(uri: str) -> str:
    """Return the address without a password."""
    head, at, tail = uri.rpartition("@")
    return f"{head.partition('://')[0]}://...@{tail}" if at and "://" in head else uri


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
