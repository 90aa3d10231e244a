"""A model of transformers with random weights, made where it is needed; nothing is downloaded."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

from benchmarks.peers.case import ALPHA, RANK, TARGET_MODULES, Case, find_device


def choose_attention(case: Case) -> str:
    """The fastest a peer may have: SDPA on equal rows, flash attention on packs."""
    if case.attention != "auto":
        return case.attention
    return "flash_attention_2" if not case.is_uniform and is_flash_attn_2_available() else "sdpa"


def random_model(case: Case, attention: str) -> PreTrainedModel:
    """Random bf16 weights on the device."""
    values = {key: value for key, value in case.config.items() if key != "model_type"}
    config = AutoConfig.for_model(case.config["model_type"], **values, use_cache=False)
    torch.manual_seed(0)
    with torch.device(find_device()):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )


def with_adapter(model: PreTrainedModel, *, in_float32: bool) -> PeftModel:
    """PEFT's adapter on the seven projections, in float32 as PEFT has it by itself or in bf16."""
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGET_MODULES),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora, autocast_adapter_dtype=in_float32)


def random_tokenizer(case: Case) -> PreTrainedTokenizerFast:
    """A word for each id, for peers that ask for a tokenizer."""
    words = {f"w{number}": number for number in range(case.config["vocab_size"])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        unk_token="w0",
        pad_token="w3",
        bos_token=f"w{case.config['bos_token_id']}",
        eos_token=f"w{case.config['eos_token_id']}",
        model_max_length=case.config["max_position_embeddings"],
    )


def checkpoint_folder(case: Case) -> Path:
    return Path(case.scratch) / f"random-{case.shape}"


def write_checkpoint(case: Case) -> None:
    """Save random weights and a tokenizer, for peers that only load from a folder."""
    folder = checkpoint_folder(case)
    random_model(case, "sdpa").save_pretrained(folder)
    random_tokenizer(case).save_pretrained(folder)
