"""The decoder: Llama, Qwen2 and Qwen3 in one file, with the Hub's parameter names.

Tokens come packed: T of them in one dimension, whatever documents or rows they belong to.
Who may see whom is not decided here but by ``attend``, which training, prefill and decoding
each bring.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from thinktune.errors import ConfigError
from thinktune.kernels.embedding import gather
from thinktune.kernels.language import runs_fused
from thinktune.model.adapter import Adapter
from thinktune.model.base_weights import BaseLinear, LinearStack
from thinktune.model.held_weights import FORWARD_AS_IT_IS, Quantize, SharedBuffer
from thinktune.model.host_store import HostStore
from thinktune.model.kept import Keep
from thinktune.model.layer import Attend, Layer, LayerCall, LayerFunction
from thinktune.model.projections import RMSNorm
from thinktune.model.shape import DecoderShape
from thinktune.ops.attention import PackedAttention
from thinktune.ops.linear import linear
from thinktune.ops.rms_norm import rms_norm
from thinktune.ops.rope import Rotation, inverse_frequencies, rope_tables

_MAX_SEED = 2**31 - 8


class DecoderBody(nn.Module):
    """Everything below the head; named ``model`` on the Hub."""

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for embeddings, layers and the last norm."""
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, index) for index in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class Decoder(nn.Module):
    """A frozen base model whose linear layers can carry an adapter.

    Build it through `thinktune.model.checkpoint_io.load_decoder`, which fills the weights.
    """

    def __init__(self, shape: DecoderShape) -> None:
        """Make room for the weights; nothing has a value yet."""
        super().__init__()
        self.shape = shape
        self.model = DecoderBody(shape)
        self.lm_head = BaseLinear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.requires_grad_(False)
        self.adapter: Adapter | None = None
        """The attached adapter, bound to the layers."""
        self.keep: Sequence[Keep] = (Keep.ALL,) * shape.num_hidden_layers
        """What each layer's forward keeps for its backward."""
        self.buffer = SharedBuffer()
        """Where quantised weights are written out."""
        self.samples: dict[str, bytes] = {}
        """Of weights that are not as they were stored, for `fingerprint`; by name."""
        self._store: HostStore | None = None
        self._inputs: HostStore | None = None
        self._frequencies: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the products, and of all weights that are not quantised."""
        return self.model.norm.weight.dtype

    @property
    def quantize(self) -> Quantize | None:
        """How the projections are held; None as they are."""
        return next((stack.quantize for stack in self.stacks if stack.quantize), None)

    def kinds(self, quantize: Quantize) -> list[Quantize]:
        """How each stack is to be held, in order.

        In FP8 the forward products of the last two layers stay as they are: a third of what
        rounding does to the predictions comes from there (docs/log.md).
        """
        each, layers = len(self._layers[0].stacks), len(self._layers)
        plain = min(FORWARD_AS_IT_IS, layers - 1) if quantize is Quantize.FP8 else 0
        return [quantize] * each * (layers - plain) + [Quantize.FP8_DGRAD] * each * plain

    @property
    def held_as(self) -> str:
        """How the projections are held, in a word of `BaseDtype`."""
        return self.quantize or str(self.dtype).removeprefix("torch.")

    @property
    def stream_dtype(self) -> torch.dtype:
        """Type of the residual stream: fp16 cannot hold what some models put there."""
        return torch.float32 if self.dtype is torch.float16 else self.dtype

    @property
    def stacks(self) -> Iterator[LinearStack]:
        """The joined projections of all layers, in order."""
        for layer in self._layers:
            yield from layer.stacks

    @property
    def _layers(self) -> Sequence[Layer]:
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def plan(self, keep: Sequence[Keep], max_tokens: int, *, host_embedding: bool = False) -> None:
        """Decide what each layer's forward keeps, and make room for it on the host.

        Args:
            keep: one for each layer.
            max_tokens: of the longest row there will be.
            host_embedding: whether the embedding moves to host memory, where a GPU reads it.
        """
        self.keep = tuple(keep)
        self._store = self._host_store(
            Keep.HOST, max_tokens, 2 * self.shape.intermediate_size, self.dtype
        )
        self._inputs = self._host_store(
            Keep.NOTHING, max_tokens, self.shape.hidden_size, self.stream_dtype
        )
        embedding = self.model.embed_tokens
        if host_embedding and embedding.weight.is_cuda and not self.shape.tie_word_embeddings:
            pinned = torch.empty_like(embedding.weight, device="cpu", pin_memory=True)
            pinned.copy_(embedding.weight)
            embedding.weight = nn.Parameter(pinned, requires_grad=False)

    def _host_store(
        self, kind: Keep, max_tokens: int, width: int, dtype: torch.dtype
    ) -> HostStore | None:
        layers = [layer for layer, kept in enumerate(self.keep) if kept is kind]
        return HostStore(layers, max_tokens, width, dtype, self.device) if layers else None

    def _embed(self, tokens_T: Tensor) -> Tensor:
        """The stream at the bottom of the layers."""
        weight = self.model.embed_tokens.weight
        if weight.device == tokens_T.device:
            return self.model.embed_tokens(tokens_T).to(self.stream_dtype)
        x_TD = torch.empty(
            len(tokens_T), weight.shape[1], dtype=self.stream_dtype, device=tokens_T.device
        )
        gather(weight, tokens_T, x_TD)
        return x_TD

    def join(self) -> None:
        """Put the weights of projections that read the same input into one matrix.

        To be called when weights were replaced; weights that are joined stay where they are.
        """
        for stack in self.stacks:
            stack.join()

    def bind_adapter(self) -> None:
        """Gather the matrices that stand in the layers, as `adapter`; none if there are none."""
        adapted = [m for s in self.stacks for m in s.members if m.lora_A is not None]
        if adapted:
            self.adapter = Adapter(adapted, list(self.stacks))
            return
        self.adapter = None
        for stack in self.stacks:
            stack.bind(None, None, ())

    def _apply(self, fn: Callable, recurse: bool = True) -> "Decoder":
        if any(stack.quantize is not None for stack in self.stacks):
            raise ConfigError("a quantised base stays where it was loaded, as it was loaded")
        super()._apply(fn, recurse)
        self.join()
        self.bind_adapter()
        return self

    def forward(
        self,
        tokens_T: Int[Tensor, " T"],
        positions_T: Int[Tensor, " T"],
        attend: Attend,
        wanted_C: Int[Tensor, " C"] | None = None,
    ) -> Float[Tensor, "C D"]:
        """Hidden states after the last norm, ready for the head.

        With gradients enabled, an adapter attached and a `PackedAttention`, the result is part
        of a graph whose backward adds to the adapter's gradient.

        Args:
            tokens_T: token ids, documents one after the other.
            positions_T: each token's place in its own document.
            attend: how the tokens see each other.
            wanted_C: rows whose states are wanted; None for all.
        """
        if self.adapter is not None:
            self.adapter.refresh()
        rotation = self._rotation(positions_T)
        x_TD = self._embed(tokens_T)
        if (
            torch.is_grad_enabled()
            and self.adapter is not None
            and isinstance(attend, PackedAttention)
        ):
            x_TD = self._train_layers(x_TD, rotation, attend)
        else:
            with torch.no_grad():
                for layer, seed in zip(self._layers, self._seeds(), strict=True):
                    x_TD, _ = layer(x_TD, rotation, attend, seed)
        if wanted_C is not None:
            x_TD = x_TD.index_select(0, wanted_C)
        return rms_norm(x_TD, self.model.norm.weight, self.model.norm.eps)

    def _train_layers(self, x_TD: Tensor, rotation: Rotation, attend: PackedAttention) -> Tensor:
        reached = False
        for layer, keep, seed in zip(self._layers, self.keep, self._seeds(), strict=True):
            if not reached and not any(stack.is_adapted for stack in layer.stacks):
                with torch.no_grad():
                    x_TD, _ = layer(x_TD, rotation, attend, seed)
                continue
            if not reached:
                x_TD = x_TD.detach().requires_grad_()
            store = self._store if keep is Keep.HOST else None
            inputs = self._inputs if keep is Keep.NOTHING else None
            call = LayerCall(rotation, attend, seed, keep, reached, store, inputs)
            x_TD = LayerFunction.apply(x_TD, layer, call)
            reached = True
        return x_TD

    def _seeds(self) -> list[int]:
        """Where each layer's dropout masks of this pass begin; drawn only if there is dropout."""
        members = (member for stack in self.stacks for member in stack.members)
        drops = self.training and any(member.dropout for member in members)
        first = int(torch.randint(_MAX_SEED // 8, ())) if drops else 0
        return [(first + 8 * layer.index) % _MAX_SEED for layer in self._layers]

    def _rotation(self, positions_T: Tensor) -> Rotation:
        scaling = self.shape.rope_scaling
        if self._frequencies is None or self._frequencies.device != self.device:
            frequencies = inverse_frequencies(self.shape.head_dim, self.shape.rope_theta, scaling)
            self._frequencies = frequencies.to(self.device)
        factor = 1.0 if scaling is None else scaling.attention_factor
        # Kernels compute in float32 anyway; elsewhere mixed types would cost a pass.
        dtype = torch.float32 if runs_fused(self.model.norm.weight) else self.dtype
        return rope_tables(positions_T, self._frequencies, dtype, factor)

    def logits(self, hidden_CD: Float[Tensor, "C D"]) -> Float[Tensor, "C V"]:
        """Scores of the next token for the given states; never call it on a whole sequence."""
        return linear(hidden_CD, self.lm_head.weight, None)
