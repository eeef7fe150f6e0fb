"""The package as it is installed."""

import sparknet


def test_version_is_the_workspaces():
    assert sparknet.__version__.count(".") == 2
