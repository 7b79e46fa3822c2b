"""Rows of tables: Parquet files and folders that `datasets` saved, each read by its own package, an extra."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lam_jax.data.schemas import DataError, Where


def rows_of_parquet(path: Path) -> Iterator[Any]:
    """Rows of a Parquet file, a column a key.

    Raises:
      DataError: no such file, a damaged one, two columns of one name, or pyarrow is not installed.
    """
    where = Where(str(path))
    if not path.exists():
        raise DataError(where, None, "No such file or directory", "a readable file of rows", "Check the path.")
    parquet = extra("pyarrow.parquet", "parquet", where)
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(where, twice[0], "two columns of one name", "one", "Rename one of them.")
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except DataError:
        raise
    except Exception as error:  # pyarrow has many, all of them about the file here
        raise unreadable(where, error) from error


def rows_of_folder(path: Path, known: str) -> Iterator[Any]:
    """Rows of a folder that `datasets.Dataset.save_to_disk` wrote; pictures as they are stored, {"bytes", "path"}.

    Raises:
      DataError: another folder (`known` says what is read), a damaged one, or datasets is not installed.
    """
    where = Where(str(path))
    if (path / "dataset_dict.json").exists():
        names = sorted(item.name for item in path.iterdir() if item.is_dir())
        fix = f"Name one: {path / names[0]}." if names else "Save the data set again."
        raise DataError(where, None, f"a folder of several data sets, {names}", "one of them", fix)
    if not (path / "state.json").exists():
        fix = "Name a file of it; a data set is saved with `datasets.Dataset.save_to_disk`."
        raise DataError(where, None, "a folder that datasets did not save", known, fix)
    package = extra("datasets", "datasets", where)
    try:
        rows = package.load_from_disk(str(path)).with_format("arrow")  # pictures stay as they are stored
        for start in range(0, len(rows), 1024):
            yield from rows[start : start + 1024].to_pylist()
    except DataError:
        raise
    except Exception as error:  # datasets and pyarrow have many, all of them about the folder here
        raise unreadable(where, error) from error


def extra(module: str, name: str, where: Where) -> Any:
    """A module of the extra `name`.

    Raises:
      DataError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        found = f"a file that is read with the package {module}, which is not installed"
        raise DataError(where, None, found, "the package", f"pip install 'lam_jax[{name}]'.") from error


def unreadable(where: Where, error: Exception) -> DataError:
    """The error for a file that a package cannot read."""
    found = getattr(error, "strerror", None) or f"a file that cannot be read ({error})"
    return DataError(where, None, str(found), "a readable file of rows", "Check the path, or fetch the file again.")
