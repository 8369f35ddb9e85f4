"""Octavo in Hugging Face transformers.

Importing this registers attn_implementation="octavo":

    import octavo.transformers
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="octavo")

`PagedCache` keeps the keys and values that `generate` computes in pages, shared between prompts.
"""

from transformers import AttentionInterface, AttentionMaskInterface

from ._attention import attention
from ._masks import Mask, mask
from ._paged_cache import PagedCache

AttentionInterface.register("octavo", attention)
AttentionMaskInterface.register("octavo", mask)

__all__ = ["Mask", "PagedCache", "attention", "mask"]
