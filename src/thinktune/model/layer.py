"""One decoder layer: attention and feed-forward, each added to the residual stream.

In training a layer is one autograd function with a backward written by hand. What forward
leaves for backward, and what backward makes again, is chosen for each layer (`Keep`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thinktune.model.base_weights import LinearStack
from thinktune.model.held_weights import Quantize, Rows
from thinktune.model.host_store import HostStore
from thinktune.model.kept import Keep, Kept
from thinktune.model.projections import MLP, Attention, RMSNorm
from thinktune.model.shape import DecoderShape
from thinktune.ops.attention import PackedAttention
from thinktune.ops.fp8 import add_rms_norm_rows, rms_norm_backward_rows, rms_norm_rows
from thinktune.ops.rms_norm import residual_add, rms_norm_again, rms_norm_backward
from thinktune.ops.rope import Heads, Rotation, rope_backward, rope_forward
from thinktune.ops.swiglu import swiglu_backward, swiglu_forward
from thinktune.ops.update import GradB

Attend = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Any]]
"""(layer, q_TNH, k_TKH, v_TKH) -> out_TNH, and what its backward wants (None: nothing)."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """How one layer is run in training."""

    rotation: Rotation
    attend: PackedAttention
    seed: int
    keep: Keep
    wants_input: bool
    """Whether anything below this layer needs a gradient."""
    store: HostStore | None = None
    """Where its gate and up products wait for backward."""
    inputs: HostStore | None = None
    """Where its input does."""


class Layer(nn.Module):
    """The weights of one layer, and its arithmetic forward and backward."""

    def __init__(self, shape: DecoderShape, index: int) -> None:
        """Make room for one layer's weights."""
        super().__init__()
        self.index = index
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        attention, mlp = self.self_attn, self.mlp
        self.qkv = LinearStack(attention.q_proj, attention.k_proj, attention.v_proj)
        self.o = LinearStack(attention.o_proj)
        self.gate_up = LinearStack(mlp.gate_proj, mlp.up_proj)
        self.down = LinearStack(mlp.down_proj)
        self._heads = (shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim)

    @property
    def stacks(self) -> tuple[LinearStack, ...]:
        """Products of this layer, in order."""
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def heads(self) -> Heads:
        """How the query, key and value buffer is divided."""
        q_norm, k_norm = self.self_attn.q_norm, self.self_attn.k_norm
        if q_norm is None or k_norm is None:
            return Heads(*self._heads)
        return Heads(*self._heads, (q_norm.weight, k_norm.weight), q_norm.eps)

    def forward(
        self,
        x_TD: Tensor,
        rotation: Rotation,
        attend: Attend,
        seed: int,
        store: HostStore | None = None,
    ) -> tuple[Tensor, Kept]:
        """Update the residual stream.

        Args:
            x_TD: the stream so far.
            rotation: of query and key.
            attend: how the tokens see each other.
            seed: of the dropout masks.
            store: where the gate and up products are to wait for backward; None to keep them.

        Returns:
            The stream (T, D), and all that a backward pass needs.
        """
        kept = Kept(x_TD)
        h_TD, rows = self._attend(kept, rotation, attend, seed)
        room = store.room(self.index, len(x_TD)) if store is not None else None
        kept.gate_up, kept.S_gate_up, update = self.gate_up.project(h_TD, seed + 2, room, rows)
        del h_TD, rows
        act_TF = swiglu_forward(kept.gate_up, update)
        if store is not None:
            store.send(self.index)
        out_TD, kept.S_down, update = self.down.project(act_TF, seed + 3)
        assert kept.mid is not None
        return residual_add(kept.mid, out_TD, update), kept

    def _attend(
        self, kept: Kept, rotation: Rotation, attend: Attend, seed: int
    ) -> tuple[Tensor, Rows]:
        """The first half, as far as it is missing; gives the second norm's result."""
        norm = self.post_attention_layernorm
        q_TNH, k_TKH, v_TKH = self._qkv(kept, rotation, seed)
        if kept.attended is None:
            attended, kept.saved = attend(self.index, q_TNH, k_TKH, v_TKH)
            kept.attended = attended.flatten(1)
        base_TD, S_o, update = self.o.project(kept.attended, seed + 1)
        args = kept.x, base_TD, update, norm.weight, norm.eps
        wanted = self.gate_up.quantize is Quantize.FP8
        kept.mid, h_TD, kept.rrms_mid, rows = add_rms_norm_rows(*args, wanted=wanted)
        kept.S_o = S_o
        return h_TD, rows

    def _qkv(self, kept: Kept, rotation: Rotation, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, turned; the buffer is kept."""
        norm = self.input_layernorm
        wanted = self.qkv.quantize is Quantize.FP8
        h_TD, kept.rrms_x, rows = rms_norm_rows(kept.x, norm.weight, norm.eps, wanted=wanted)
        kept.qkv, kept.S_qkv, update = self.qkv.project(h_TD, seed, None, rows)
        return rope_forward(kept.qkv, self.heads, rotation, update)

    def _turned(self, kept: Kept, rotation: Rotation, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value as attention saw them."""
        if kept.qkv is None:
            return self._qkv(kept, rotation, seed)
        if self.heads.norms is None:
            return self.heads.split(kept.qkv)
        # The update is added already. That of zero is added too, because a kernel without one
        # would take the norms' sums in another order than the forward pass.
        S = kept.S_qkv
        zero = None if S is None else self.qkv.pending(kept.qkv, torch.zeros_like(S))
        return rope_forward(kept.qkv, self.heads, rotation, zero)

    def backward(self, grad_TD: Tensor, kept: Kept, call: LayerCall) -> Tensor | None:
        """Gradient of the layer's input; the adapter's gradients are added to where they are kept.

        ``grad_TD`` is overwritten.
        """
        normed = None
        if kept.attended is None or kept.mid is None:
            normed = self._attend(kept, call.rotation, call.attend.forward, call.seed)
        if call.store is not None:
            kept.gate_up = call.store.fetch(self.index)
        grad_TD, rows = self._mlp_backward(grad_TD, kept, normed, call.seed)
        del normed
        if call.store is not None:
            call.store.release(self.index)
        if call.wants_input or self.o.is_adapted or self.qkv.is_adapted:
            return self._attention_backward(grad_TD, rows, kept, call)
        return None

    def _mlp_backward(
        self, grad_TD: Tensor, kept: Kept, normed: tuple[Tensor, Rows] | None, seed: int
    ) -> tuple[Tensor, Rows]:
        """Gradient of the middle, and what ``o`` reads of it in eight bits."""
        norm = self.post_attention_layernorm
        assert kept.mid is not None
        assert kept.rrms_mid is not None
        if kept.gate_up is None:
            if normed is None:
                normed = rms_norm_again(kept.mid, norm.weight, kept.rrms_mid), None
            h_TD, rows = normed
            kept.gate_up, kept.S_gate_up, update = self.gate_up.project(h_TD, seed + 2, None, rows)
            del h_TD, rows, normed
        else:
            update = self.gate_up.pending(kept.gate_up, kept.S_gate_up)
        low_TD = grad_TD.to(norm.weight.dtype)  # the stream's gradient, as products take it
        _add_grad_b(self.down.grad_b(kept.S_down), low_TD)
        grad_TF, grad_S = self.down.backward_input(low_TD)
        del low_TD
        grad_update = self.down.through_a(grad_TF, grad_S, seed + 3)
        sums = self.down.grad_a(grad_S), self.gate_up.grad_b(kept.S_gate_up)
        grad_gate_up, act_TF = swiglu_backward(grad_TF, grad_update, kept.gate_up, update, *sums)
        kept.gate_up = None
        if act_TF is not None:
            self.down.add_grad_a(grad_S, act_TF, seed + 3)
        del grad_TF, act_TF
        grad_h, grad_S = self.gate_up.backward_input(grad_gate_up)
        del grad_gate_up
        grad_update = self.gate_up.through_a(grad_h, grad_S, seed + 2)
        args = grad_h, grad_update, kept.mid, norm.weight, kept.rrms_mid, grad_TD
        scales = self.o.held.gradient_scales
        grad_TD, h_TD, rows = rms_norm_backward_rows(*args, scales)
        self.gate_up.add_grad_a(grad_S, h_TD, seed + 2)
        kept.mid = None
        return grad_TD, rows

    def _attention_backward(
        self, grad_TD: Tensor, rows: Rows, kept: Kept, call: LayerCall
    ) -> Tensor | None:
        seed, rotation = call.seed, call.rotation
        norm, heads = self.input_layernorm, self.heads
        assert kept.attended is not None
        low_TD = grad_TD.to(norm.weight.dtype)
        _add_grad_b(self.o.grad_b(kept.S_o), low_TD)
        grad_out, grad_S = self.o.backward_input(low_TD, rows)
        del low_TD, rows
        update = self.o.through_a(grad_out, grad_S, seed + 1)
        if update is not None:
            grad_out.addmm_(*update)
        self.o.add_grad_a(grad_S, kept.attended, seed + 1)
        turned = self._turned(kept, rotation, seed)
        assert kept.qkv is not None
        grad_qkv = torch.empty_like(kept.qkv)
        by_head = (-1, heads.width)
        grads = call.attend.backward(
            grad_out.unflatten(1, by_head),
            turned,
            kept.attended.unflatten(1, by_head),
            kept.saved,
            heads.split(grad_qkv)[0],
        )
        kept.attended = kept.saved = None
        del grad_out, turned
        grad_b = self.qkv.grad_b(kept.S_qkv)
        rope_backward(grads, kept.qkv, heads, rotation, grad_qkv, grad_b)
        del grads
        kept.qkv = None
        assert kept.rrms_x is not None
        if not call.wants_input:
            h_TD = rms_norm_again(kept.x, norm.weight, kept.rrms_x)
            self.qkv.add_grad_a(self.qkv.grad_low_rank(grad_qkv), h_TD, seed)
            return None
        grad_h, grad_S = self.qkv.backward_input(grad_qkv)
        del grad_qkv
        update = self.qkv.through_a(grad_h, grad_S, seed)
        grad_TD, h_TD = rms_norm_backward(grad_h, update, kept.x, norm.weight, kept.rrms_x, grad_TD)
        self.qkv.add_grad_a(grad_S, h_TD, seed)
        return grad_TD


def _add_grad_b(grad_b: GradB | None, grad: Tensor) -> None:
    if grad_b is not None:
        grad_b.add(grad)


class LayerFunction(torch.autograd.Function):
    """A layer as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, layer: Layer, call: LayerCall) -> Tensor:
        """Compute, and keep what backward needs."""
        out_TD, kept = layer(x_TD, call.rotation, call.attend.forward, call.seed, call.store)
        if call.inputs is not None:
            call.inputs.room(layer.index, len(x_TD)).copy_(x_TD)
            call.inputs.send(layer.index)
        kept.reduce(call.keep)
        ctx.layer, ctx.call, ctx.kept = layer, call, kept
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        """Gradient of the input; the adapter's are added to where they are kept."""
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            raise RuntimeError("a layer's backward runs once: its memory is reused")
        call, index = ctx.call, ctx.layer.index
        if call.inputs is not None:
            kept.x = call.inputs.fetch(index)
        grad_TD = ctx.layer.backward(grads[0].contiguous(), kept, call)
        if call.inputs is not None:
            call.inputs.release(index)
        return grad_TD, None, None
