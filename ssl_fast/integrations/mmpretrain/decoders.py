"""Decoders that put mask tokens among the visible ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import ops
from ._patches import patches
from .serving import FLOATS, fast_on, is_worth

_NECKS = "mmpretrain.models.necks"


@patches.replaces(
    f"{_NECKS}.mae_neck:MAEPretrainDecoder.forward",
    "f7f3bbea3a48",
    gain="mask tokens and positions are put in place in one pass",
)
def mae_decoder(original: Any, self: Any, x: Tensor, ids_restore: Tensor) -> Tensor:
    if not _restores(self, x, ids_restore, prefix=1):
        return original(self, x, ids_restore)
    x = self.decoder_embed(x)
    x = ops.restore_tokens(x, ids_restore, self.mask_token, self.decoder_pos_embed, 1)
    for block in self.decoder_blocks:
        x = block(x)
    return self.decoder_pred(self.decoder_norm(x))[:, 1:, :]


@patches.replaces(
    f"{_NECKS}.milan_neck:MILANPretrainDecoder.forward",
    "7409b0d777b7",
    gain="tokens are put in place and taken out in one pass each",
)
def milan_decoder(
    original: Any, self: Any, x: Tensor, ids_restore: Tensor, ids_keep: Tensor, ids_dump: Tensor
) -> Tensor:
    if not _restores(self, x, ids_restore, prefix=1):
        return original(self, x, ids_restore, ids_keep, ids_dump)
    x = self.decoder_embed(x)
    x = ops.restore_tokens(x, ids_restore, self.mask_token, self.decoder_pos_embed, 1)
    cls_token, x = x[:, :1], x[:, 1:]
    visible = torch.cat([cls_token, ops.gather_tokens(x, ids_keep)], dim=1)
    x = ops.gather_tokens(x, ids_dump)
    for block in self.decoder_blocks:
        x = block(x, visible, ids_restore)
    x = ops.gather_tokens(torch.cat([visible[:, 1:], x], dim=1), ids_restore)
    x = torch.cat([cls_token, x], dim=1)
    return self.decoder_pred(self.decoder_norm(x))


@patches.replaces(
    "mmpretrain.models.utils.attention:PromptMultiheadAttention.forward",
    "844ed44e7249",
    gain="keys are not put in the order of the image, which attention does not see",
)
def prompt_attention(
    original: Any, self: Any, x: Tensor, visible_tokens: Tensor, ids_restore: Tensor
) -> Tensor:
    tokens = visible_tokens.shape[1] - 1 + x.shape[1]
    if tokens != ids_restore.shape[1] or (self.training and self.attn_drop > 0):
        return original(self, x, visible_tokens, ids_restore)
    heads = (self.num_heads, self.head_dims)
    query = self.q(x).unflatten(-1, heads).transpose(1, 2)
    kv = self.kv(torch.cat([visible_tokens, x], dim=1)).unflatten(-1, (2, *heads))
    key, value = kv.permute(2, 0, 3, 1, 4)
    x = self.scaled_dot_product_attention(query, key, value, dropout_p=0.0)
    x = self.proj(x.transpose(1, 2).flatten(2))
    return self.out_drop(self.gamma1(self.proj_drop(x)))


@patches.replaces(
    f"{_NECKS}.itpn_neck:iTPNPretrainDecoder.forward",
    "89fa779433e9",
    gain="levels are summed before mask tokens and positions are put in place, in one pass",
)
def itpn_decoder(
    original: Any, self: Any, x: tuple[Tensor, ...], ids_restore: Tensor | None = None
) -> Tensor:
    if (
        self.reconstruction_type != "pixel"
        or self.num_outs not in (2, 3)
        or ids_restore is None
        or not _restores(self, x[-1], ids_restore, prefix=0)
    ):
        return original(self, x, ids_restore)
    *finer, tokens = x
    shape = tokens.shape[:2]
    out = tokens[..., None, None, :]
    outs = [out if self.align_dim_16tofpn is None else self.align_dim_16tofpn(out)]
    out = self.block_16to8(self.split_16to8(out) + self.align_dim_16to8(finer[1]))
    outs.append(out)
    if self.num_outs == 3:
        outs.append(self.block_8to4(self.split_8to4(out) + self.align_dim_8to4(finer[0])))
    levels = [
        embed(module(out)).reshape(*shape, -1)
        for out, module, embed in zip(outs, self.fpn_modules, self.decoder_embed, strict=False)
    ]
    dtype = torch.promote_types(levels[0].dtype, self.mask_token.dtype)
    tokens = levels[0].to(dtype)
    for level in levels[1:]:
        tokens = tokens + level
    mask_token = self.mask_token * len(levels)
    tokens = ops.restore_tokens(tokens, ids_restore, mask_token, self.decoder_pos_embed)
    for block in self.decoder_blocks:
        tokens = block(tokens)
    return self.decoder_pred(self.decoder_norm(tokens))


def _restores(self: Any, x: Tensor, ids_restore: Tensor, prefix: int) -> bool:
    """Whether x holds `prefix` and the visible tokens of what `ids_restore` is for."""
    if x.dim() != 3 or ids_restore.dim() != 2 or ids_restore.dtype != torch.int64:
        return False
    batch, length = ids_restore.shape
    token, positions = self.mask_token, self.decoder_pos_embed
    return (
        len(x) == batch
        and is_worth(batch * positions.numel())
        and prefix <= x.shape[1] <= prefix + length
        and x.dtype in FLOATS
        and tuple(token.shape[:2]) == (1, 1)
        and tuple(positions.shape) == (1, prefix + length, token.shape[2])
        and fast_on(x, ids_restore, token, positions)
    )
