"""What all sections of the settings have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from worker.settings.fields import SECRET_FILES


class Section(BaseModel):
    """A secret may lie in a file (a mounted Kubernetes secret), which `<its name>_file` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _secrets_from_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        resolved = dict(values)
        for name in cls.model_fields:
            file = values.get(f"{name}_file")
            if file is None or f"{name}_file" not in SECRET_FILES:
                continue
            if values.get(name) is not None:
                raise ValueError(f"{name} and {name}_file are both set: set only one of them")
            try:
                with open(str(file), encoding="utf-8") as opened:
                    resolved[name] = opened.read().strip("\r\n")
            except (OSError, ValueError) as error:
                raise ValueError(f"{name}_file: {getattr(error, 'strerror', error)}: {file}") from None
            if not resolved[name]:
                raise ValueError(f"{name}_file: {file} is empty")
        return resolved
