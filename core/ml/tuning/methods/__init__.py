"""The tuning methods, as adapters that the model calls.

`core.artifact.sites` and `core.artifact.additions` define without torch what each of them trains. DiffFit, BitFit and
full fine-tuning replace the base's tensors and add factors: all three are `TensorAdapter` and differ only in the names
of their tensors. Each of the other methods has a file here."""

from collections.abc import Mapping

from torch import Tensor

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.sites import MethodSites
from core.ml.model.adapter import TensorAdapter
from core.ml.tuning.methods.adaptformer import AdaptFormerAdapter
from core.ml.tuning.methods.lora import LoraAdapter
from core.ml.tuning.methods.vpt import PromptAdapter


def adapter_of(sites: MethodSites, tensors: Mapping[str, Tensor]) -> TensorAdapter:
    """The adapter made of `tensors`, as `trainable_shapes` names them, for `dit(x, t, y, adapter)`."""
    match sites:
        case Lora():
            return LoraAdapter(sites, tensors)
        case AdaptFormer():
            return AdaptFormerAdapter(sites, tensors)
        case Prompts():
            return PromptAdapter(tensors)
    return TensorAdapter(tensors)
