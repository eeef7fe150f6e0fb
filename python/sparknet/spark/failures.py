"""What a failed Spark job says to people."""

from __future__ import annotations

import re

_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception)): (.+)$", flags=re.MULTILINE)
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(sparknet|pyarrow|numpy)[.']")


def sentence(error: BaseException) -> str:
    """A line of an error: of one in a Spark task, the last of its Python traceback."""
    missing = missing_package(error)
    if missing:
        return missing
    text = str(error).strip()
    found = _RAISED.findall(text)
    if "Traceback (most recent call last)" in text and found:
        return str(found[-1][1]).strip()
    return text.splitlines()[0] if text else type(error).__name__


def missing_package(error: BaseException) -> str | None:
    """Says that executors lack a package, where that is what an error is about."""
    found = _MISSING.search(str(error))
    if not found:
        return None
    return (
        f"the executors' Python has no package {found[1]}: install sparknet's wheel there, or send them an environment "
        "that has it (--archives env.tar.gz#env and spark.pyspark.python=./env/bin/python)"
    )


def of_rows(error: BaseException) -> str | None:
    """What a task said of rows or of the net, where that is what an error is about."""
    found = re.search(r"^sparknet\.[\w.]+Error: (.+)$", str(error), flags=re.MULTILINE)
    return found[1].strip() if found else missing_package(error)
