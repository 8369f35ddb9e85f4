"""Octavo in Hugging Face transformers.

Importing this registers attn_implementation="octavo":

    import octavo.transformers
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="octavo")
"""

from transformers import AttentionInterface, AttentionMaskInterface

from ._attention import attention
from ._masks import Mask, mask

AttentionInterface.register("octavo", attention)
AttentionMaskInterface.register("octavo", mask)

__all__ = ["Mask", "attention", "mask"]
