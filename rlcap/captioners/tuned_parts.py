"""What is tuned of a captioner that was made elsewhere: `rlcap.json`, beside weights that need no rlcap."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from rlcap.config.captioner import CaptionerConfig, DecoderTuning
from rlcap.config.precision import SaveDtype
from rlcap.errors import CheckpointError

SETTINGS_FILE = "rlcap.json"


@dataclass(frozen=True, slots=True)
class TunedParts:
    """How a checkpoint is prompted and tuned."""

    prompt: str = ""
    """Asked of an audio LLM, or written in front of every caption by an encoder-decoder."""
    freeze_encoder: bool = True
    """A frozen encoder hears each clip once: its output is the policy's features."""
    decoder: DecoderTuning = DecoderTuning.full
    lora_rank: int = 8
    lora_alpha: float = 16.0
    adapters_alone: bool = False
    """Save adapters beside a link to their base, not merged into it."""
    save_dtype: SaveDtype = SaveDtype.as_loaded
    gradient_checkpointing: bool = False

    @classmethod
    def of(cls, config: CaptionerConfig) -> TunedParts:
        """Take the settings of a run."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    @classmethod
    def read(cls, directory: Path) -> TunedParts:
        """Read what `write` wrote; the defaults hold for a checkpoint that rlcap has never seen.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = directory / SETTINGS_FILE
        if not path.is_file():
            return cls()
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            save_dtype = SaveDtype(plain.get("save_dtype", SaveDtype.as_loaded.value))
            return cls(**{**plain, "decoder": DecoderTuning(plain["decoder"]), "save_dtype": save_dtype})
        except (OSError, ValueError, KeyError, TypeError) as damage:
            raise CheckpointError(f"{path} does not say how a captioner is tuned: {damage}") from damage

    def write(self, directory: Path) -> None:
        """Write the settings beside a checkpoint."""
        plain = {**asdict(self), "decoder": self.decoder.value, "save_dtype": self.save_dtype.value}
        (directory / SETTINGS_FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
