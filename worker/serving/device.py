"""The device that models are served, or trained, on."""

import torch

from worker.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """Return the device; `auto` takes CUDA where available. Raises SettingsError if a named device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"OFFNORMAL_DEVICE: {name} is not available: {torch.cuda.device_count()} CUDA devices found;"
            " set auto to use the CPU if there is none"
        )
    return device
