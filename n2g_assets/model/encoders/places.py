"""Where encoders read and write: names of modules and hooks in their files, as hooks of TransformerLens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

_HOOK = re.compile(r"blocks\.(\d+)\.(\S+)")
_MODULE = re.compile(r"(?:.+\.)?(?:layers|h|blocks)\.(\d+)(?:\.(mlp|self_attn|attn|attention))?")
_MODULES: dict[str | None, tuple[str, str]] = {
    None: ("hook_resid_pre", "hook_resid_post"),
    "mlp": ("mlp.hook_in", "mlp.hook_out"),
    **dict.fromkeys(("self_attn", "attn", "attention"), ("attn.hook_in", "attn.hook_out")),
}
"""The hooks at the input and the output of a block and of its parts; behind the output a model may have a norm."""
_MODULE_END = re.compile(r"model\.layers\.(\d+)\.(\S+)")
_MODULE_ENDS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""What Gemma Scope 2 reads and predicts."""
_LAYER = re.compile(r"layer_(\d+)")
_GEMMA_SCOPE = re.compile(r"gemma-scope-.*-(res|mlp|att|transcoders)\b")
_GEMMA_SCOPE_HOOKS = {
    "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None),
    "att": ("attn.hook_z", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
_SUBMODULES = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "attention_out": "hook_attn_out",
}


@dataclass(frozen=True)
class Place:
    """A hook of a layer, as far as an encoder's files say."""

    layer: int | None = None
    hook: str | None = None
    """Inside the layer's block, such as ``hook_resid_post``; a hook outside of all blocks has its whole name."""

    def may_be(self, other: Place) -> bool:
        """Whether two places agree in what both say."""
        agreeing = ((self.layer, other.layer), (self.hook, other.hook))
        return all(None in pair or pair[0] == pair[1] for pair in agreeing)

    def __str__(self) -> str:
        return f"{'some layer' if self.layer is None else f'layer {self.layer}'} at {self.hook or 'some hook'}"


def of_hook(name: str | None) -> Place:
    """The place of a whole hook name, such as ``blocks.7.hook_resid_post``."""
    found = _HOOK.fullmatch(name or "")
    return Place(int(found[1]), found[2]) if found else Place(hook=name)


def of_module(folder: PurePath, *, transcodes: bool) -> tuple[Place, Place | None]:
    """Input and target of an encoder whose folder is named after a module, such as ``layers.7.mlp``.

    A transcoder reads the module's input and predicts its output, which an autoencoder reads.
    """
    found = next((match for part in reversed(folder.parts) if (match := _MODULE.fullmatch(part))), None)
    if found is None:
        return Place(), Place() if transcodes else None
    before, behind = (Place(int(found[1]), hook) for hook in _MODULES[found[2]])
    return (before, behind) if transcodes else (behind, None)


def of_module_end(name: str | None) -> Place:
    """The place of a module's input or output in Gemma 3, such as ``model.layers.7.output``."""
    found = _MODULE_END.fullmatch(name or "")
    return Place(int(found[1]), _MODULE_ENDS.get(found[2])) if found else Place()


def of_submodule(layer: int | None, name: str | None) -> Place:
    """The place of a layer and a name such as ``resid_post_layer_7``."""
    return Place(layer, next((hook for part, hook in _SUBMODULES.items() if part in (name or "")), None))


def of_gemma_scope(file: PurePath) -> tuple[Place, Place | None]:
    """Input and target by the path in a repository of Gemma Scope, such as ``layer_20/width_16k/...``."""
    path = file.as_posix()
    layers, kind = _LAYER.findall(path), _GEMMA_SCOPE.search(path)
    layer = int(layers[-1]) if layers else None
    reads, writes = _GEMMA_SCOPE_HOOKS[kind[1]] if kind else (None, None)
    return Place(layer, reads), Place(layer, writes) if writes else None
