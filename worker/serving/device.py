"""The device that models are served, or trained, on."""

import torch

from worker.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA where there is one. Raises SettingsError where a named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"OFFNORMAL_DEVICE: {name} is not there: {torch.cuda.device_count()} CUDA devices found;"
            " auto takes the CPU then"
        )
    return device
