"""The command `robocache voxelize`: a recorded cloud in, a dense or sparse grid, a table and a picture out.

The package is not called `voxelize`: its import would replace the function `robocache.voxelize` by a module.
"""

from robocache.cloud.cli import main

__all__ = ["main"]
