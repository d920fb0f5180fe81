"""The fine-tuning methods, as adapter objects that the model's forward pass calls.

`core.artifact.sites` and `core.artifact.additions` define which tensors each method trains; they do not import torch.
DiffFit, BitFit and full fine-tuning replace tensors of the base and add factors: all three are a `TensorAdapter`, and
differ only in the names of their tensors. LoRA, AdaptFormer and VPT each have a file here."""

from collections.abc import Mapping

from torch import Tensor

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.sites import MethodSites
from core.ml.model.adapter import TensorAdapter
from core.ml.tuning.methods.adaptformer import AdaptFormerAdapter
from core.ml.tuning.methods.lora import LoraAdapter
from core.ml.tuning.methods.vpt import PromptAdapter


def adapter_of(sites: MethodSites, tensors: Mapping[str, Tensor]) -> TensorAdapter:
    """Returns the adapter to pass to `dit(x, t, y, adapter)`. `tensors` are the adapter's tensors, with the names that
    `trainable_shapes` gives them."""
    match sites:
        case Lora():
            return LoraAdapter(sites, tensors)
        case AdaptFormer():
            return AdaptFormerAdapter(sites, tensors)
        case Prompts():
            return PromptAdapter(tensors)
    return TensorAdapter(tensors)
