"""Facts about the torch that is installed, for `recdsl doctor`."""

from __future__ import annotations

import torch


def facts() -> dict[str, str]:
    """Version, threads, devices, and whether a gradient can be taken."""
    value = torch.ones((), requires_grad=True)
    (value * 3).backward()  # pyright: ignore[reportUnknownMemberType]
    works = value.grad is not None and float(value.grad) == 3.0
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "torch": torch.__version__,
        "torch threads": str(torch.get_num_threads()),
        "GPU": cuda,
        "autograd": "works" if works else "gives a wrong gradient",
    }
