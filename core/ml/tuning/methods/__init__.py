"""The methods that a fine-tune can use, as the adapters that the model asks.

What each of them trains is told without torch: `core.artifact.sites` and `core.artifact.additions`. DiffFit, BitFit
and full fine-tuning put tensors in place of the base's and factors behind them: that is `TensorAdapter` itself, and the
names of their tensors are all the difference. Each of the others has a file here.
"""

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
