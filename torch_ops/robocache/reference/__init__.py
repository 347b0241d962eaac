"""Each operator in plain PyTorch: the definition that the fast implementations are tested against.

These functions run on any device, need no library, and are differentiable (twice) by autograd alone. They favour plain
reading over speed. What they promise is the contract's page; where a rule needs a reason, it stands beside the line.

>>> import torch
>>> from robocache import reference
>>> wheel = torch.tensor([3.0, -3.0])  # radians: a short way over the turn, not back through zero
>>> reference.resample(wheel, torch.tensor([0.0, 1.0]), torch.tensor([0.25]), mode="angle").item()
3.070796251296997
"""

from robocache.reference.fuse import fuse
from robocache.reference.mask import resample_mask
from robocache.reference.resample import resample
from robocache.reference.voxelize import voxelize
from robocache.reference.voxelize_sparse import voxelize_sparse

__all__ = ["fuse", "resample", "resample_mask", "voxelize", "voxelize_sparse"]
