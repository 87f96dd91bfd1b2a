"""Models of others: LLaDA as a LLaMA of transformers whose attention sees both sides, trained whole or by LoRA.

LLaDA is a LLaMA but for the names of its weights and of its settings; its own code is not run. Source of the names: the
configuration and the weight index of GSAI-ML/LLaDA-8B-Instruct.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ...device import pick_dtype
from ...errors import UsageError
from ...io.atomic import write_bytes
from ...models import hf
from ...models.files import check_regular, fingerprint, read_json, weight_files, write_json
from ...models.footprint import check_fits
from ...models.load import find_folder
from ...options import OptionError
from ...text import reason_of
from .file import FileQuestions
from .options import IGPOOptions
from .parts import filled
from .policy import Policy

LLADA = "llada"
NAMES = {
    r"^model\.transformer\.wte": "model.embed_tokens",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm": r"model.layers.\1.input_layernorm",
    r"^model\.transformer\.blocks\.(\d+)\.q_proj": r"model.layers.\1.self_attn.q_proj",
    r"^model\.transformer\.blocks\.(\d+)\.k_proj": r"model.layers.\1.self_attn.k_proj",
    r"^model\.transformer\.blocks\.(\d+)\.v_proj": r"model.layers.\1.self_attn.v_proj",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out": r"model.layers.\1.self_attn.o_proj",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm": r"model.layers.\1.post_attention_layernorm",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj": r"model.layers.\1.mlp.gate_proj",
    r"^model\.transformer\.blocks\.(\d+)\.up_proj": r"model.layers.\1.mlp.up_proj",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out": r"model.layers.\1.mlp.down_proj",
    r"^model\.transformer\.ln_f": "model.norm",
    r"^model\.transformer\.ff_out": "lm_head",
}
"""LLaDA's weights -> LLaMA's."""
SETTINGS = {
    "hidden_size": "d_model", "intermediate_size": "mlp_hidden_size", "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads", "rms_norm_eps": "rms_norm_eps", "max_position_embeddings": "max_sequence_length",
    "mask_token_id": "mask_token_id", "eos_token_id": "eos_token_id",
}  # fmt: skip
"""LLaMA's settings -> LLaDA's."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")
"""What LoRA adapts."""


class BothSides(nn.Module):
    """A causal language model of transformers, every token of which sees all others.

    Parameters
    ----------
    model : Any
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits [B, K, V] at ``positions`` int64 [K] (default: all L) of ``tokens`` int64 [B, L]."""
        length = tokens.shape[1]
        everything = torch.zeros((1, 1, length, length), dtype=self.model.dtype, device=tokens.device)
        keep = 0 if positions is None else positions
        mask = everything.expand(len(tokens), -1, -1, -1)
        logits: Tensor = self.model(
            input_ids=tokens, attention_mask=mask, logits_to_keep=keep, use_cache=False
        ).logits  # fmt: skip
        return logits


class LargeModel:
    """A folder of a masked diffusion language model.

    Parameters
    ----------
    options : IGPOOptions
        Complete.

    Raises
    ------
    UsageError
        If there is no such folder, it is none of a masked diffusion model, or its tokeniser cannot be read.
    """

    def __init__(self, options: IGPOOptions) -> None:
        source = options.source
        hint = "Give a folder of a model like LLaDA, or its Hugging Face id."
        self.folder = find_folder(filled(source.model), hint, allow_download=source.allow_download)
        check_regular(self.folder)
        described = read_json(self.folder / "config.json")
        if described.get("model_type") == LLADA:
            self.config, self.names = llada_config(self.folder, described), NAMES
        else:
            self.config, self.names = hf.load_config(self.folder), {}
        if self.config.model_type != "llama":
            raise OptionError(f"{{model}}: {self.folder} is {self.config.model_type}. Known are llada, and llama with "
                              "a mask token.")  # fmt: skip
        self.tokeniser = hf.load_tokeniser(self.folder)
        self.mask_id = self._token("mask_token_id")
        self.eos_id = self._token("eos_token_id")
        self.files = weight_files(self.folder)
        self.net: BothSides | None = None

    def _token(self, name: str) -> int:
        found = getattr(self.config, name, None)
        found = getattr(self.tokeniser, name, None) if found is None else found
        if not isinstance(found, int) or not 0 <= found < self.config.vocab_size:
            raise OptionError(
                f"{{model}}: {self.folder} names no {name} among its {self.config.vocab_size} tokens, so it is no "
                "masked diffusion model. Add it to config.json if it is one."
            )
        return found

    def load(self, rank: int, dtype: torch.dtype, device: torch.device) -> Policy:
        """The model as a policy: with adapters of ``rank``, or with all its weights. Raises ``UsageError``."""
        check_fits(self.folder, self.files, self.config, dtype, device)
        try:
            with hf.quiet():
                model, report = hf.transformers().LlamaForCausalLM.from_pretrained(
                    self.folder, config=self.config, key_mapping=self.names or None, dtype=dtype,
                    local_files_only=True, output_loading_info=True,
                )  # fmt: skip
        except Exception as error:  # of any kind: damaged files, other shapes
            raise OptionError(f"{{model}}: {self.folder} cannot be loaded ({reason_of(error)}).") from None
        if wrong := sorted([*report["missing_keys"], *report["unexpected_keys"]]):
            raise OptionError(
                f"{{model}}: {self.folder} holds other weights than a LLaDA of its settings ({', '.join(wrong[:3])})."
            )
        self.net = BothSides(adapted(model, rank) if rank else model).to(device).eval()
        return Policy(self.net, self.mask_id, self.eos_id)

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """The model as a folder that this class reads; adapters become part of its weights."""
        assert self.net is not None
        model: Any = self.net.model
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        write_bytes(path, save(state, {"format": "pt"}))
        config = model.config.to_dict() | {"architectures": [type(model).__name__], "mask_token_id": self.mask_id}
        write_json(path.parent / "config.json", config | {"attn": dict(facts)})
        self.tokeniser.save_pretrained(path.parent)


def llada_config(folder: Path, described: Mapping[str, Any]) -> Any:
    """LLaDA's settings as those of a LLaMA. Raises ``OptionError`` for what a LLaMA cannot be told."""
    other = {
        "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "include_bias": False,
        "include_qkv_bias": False, "rope": True, "alibi": False, "attention_layer_norm": False, "clip_qkv": None,
        "scale_logits": False, "input_emb_norm": False,
    }  # fmt: skip
    for name, usual in other.items():
        if described.get(name, usual) != usual:
            raise OptionError(f"{{model}}: {folder} has {name} {described[name]!r}; known is {usual!r}.")
    if missing := [theirs for theirs in SETTINGS.values() if theirs not in described]:
        raise OptionError(f"{{model}}: {folder}/config.json has no {missing[0]}.")
    known = {ours: described[theirs] for ours, theirs in SETTINGS.items()}
    return hf.transformers().LlamaConfig(
        **known, vocab_size=described.get("embedding_size") or described["vocab_size"],
        num_key_value_heads=described.get("n_kv_heads") or described["n_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": described.get("rope_theta", 10000.0)},
        tie_word_embeddings=described.get("weight_tying", False), attention_bias=False, mlp_bias=False,
    )  # fmt: skip


def adapted(model: Any, rank: int) -> Any:
    """The model with LoRA adapters, which alone are trained. Raises ``UsageError`` where peft is not installed."""
    try:
        import peft
    except ImportError:
        raise UsageError(
            "adapters are made by peft, which is not installed: pip install 'attn[lora]', or train all weights with "
            "a rank of 0."
        ) from None
    alpha: Any = rank / 2  # peft only divides it by the rank; an odd rank's is no whole number
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules=list(TARGETS))
    return peft.get_peft_model(model, config)


def questions_of(options: IGPOOptions, model: LargeModel) -> FileQuestions:
    """The questions of a run. Raises ``InputError`` or ``OptionError`` where the file cannot be used."""
    completion = filled(options.sampling.completion)
    task = FileQuestions(
        options.source, model.tokeniser, model.mask_id, model.eos_id, completion,
        hint_answer=options.hints.hint_answer, seed=options.compute.seed,
    )  # fmt: skip
    longest = max(task.listed, key=lambda question: len(question.prompt))
    room = model.config.max_position_embeddings
    if len(longest.prompt) + completion > room:
        raise OptionError(
            f"{{completion}}: {completion} behind a prompt of {len(longest.prompt)} tokens "
            f"({longest.text[:40]!r}) is more than the {room} positions of the model."
        )
    return task


def load_policy(options: IGPOOptions, model: LargeModel, device: torch.device) -> Policy:
    """See ``LargeModel.load``; what begins by chance begins by the seed."""
    torch.manual_seed(options.compute.seed)
    return model.load(filled(options.source.lora), pick_dtype(options.source.dtype), device)


def identity_of(model: LargeModel, task: FileQuestions) -> dict[str, str]:
    """What makes a run that run, beside its options."""
    return {"weights": fingerprint(model.files), "questions": fingerprint([task.path])}
