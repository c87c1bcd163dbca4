"""Small random models of many families, made from transformers' own configurations."""

from __future__ import annotations

import torch

SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
"""What most families call the same."""
GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": None}),
    "phi": ("phi", {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attention_dropout": 0.1}),
    "phi3": ("phi3", {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "sliding_window": None}),
    "phi3-longrope": ("phi3", {
        "sliding_window": None, "original_max_position_embeddings": 70,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
            "original_max_position_embeddings": 70,
            "short_factor": [1.0] * 8, "long_factor": [8.0] * 8, "factor": 512 / 70,
        },
    }),
    "dynamic-ntk": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}),
    "yarn": ("llama", {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128,
    }}),
    "gemma": ("gemma", {"head_dim": 16}),
    "olmo": ("olmo", {"clip_qkv": 8.0}),
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", GPT),
    "gpt2-inverse": ("gpt2", GPT | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    "gpt-neox": ("gpt_neox", {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "gptj": ("gptj", GPT | {"rotary_dim": 16, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "gpt-neo": ("gpt_neo", {"num_layers": 2, "attention_types": [[["global"], 2]], "num_heads": 4,
                            "attention_dropout": 0.1, "resid_dropout": 0.1, "embed_dropout": 0.1}),
    "gpt-bigcode": ("gpt_bigcode", GPT),
    "codegen": ("codegen", GPT | {"rotary_dim": 16, "resid_pdrop": 0.1}),
    "opt": ("opt", {"word_embed_proj_dim": 64, "ffn_dim": 96, "layerdrop": 0.3, "dropout": 0.2}),
    "biogpt": ("biogpt", {"layerdrop": 0.2}),
    "xglm": ("xglm", {"d_model": 64, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}),
    "mpt": ("mpt", {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "falcon": ("falcon", {"attention_dropout": 0.1, "hidden_dropout": 0.1}),
    "falcon-alibi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "stablelm": ("stablelm", {"attention_dropout": 0.1, "hidden_dropout": 0.1, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", {"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1,
                                  "sliding_window": None}),
    "cohere": ("cohere", {"logit_scale": 1.0}),
    "granite": ("granite", {"embedding_multiplier": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1}),
    "granitemoe": ("granitemoe", EXPERTS | {"embedding_multiplier": 6.0, "attention_multiplier": 0.1}),
    "glm": ("glm", {"head_dim": 16, "attention_dropout": 0.1}),
    "glm4": ("glm4", {"head_dim": 16}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "exaone4": ("exaone4", {"sliding_window_pattern": 2, "layer_types": ["full_attention"] * 2}),
    "nemotron": ("nemotron", {"attention_dropout": 0.1, "hidden_dropout": 0.1}),
    "seed-oss": ("seed_oss", {"head_dim": 16, "residual_dropout": 0.1, "attention_dropout": 0.1}),
    "helium": ("helium", {"head_dim": 16}),
    "persimmon": ("persimmon", {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "qwen2-moe": ("qwen2_moe", EXPERTS | {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 48}),
    "qwen3-moe": ("qwen3_moe", EXPERTS | {"moe_intermediate_size": 48, "head_dim": 16}),
    "mixtral": ("mixtral", EXPERTS | {"router_jitter_noise": 0.3, "sliding_window": None}),
    "phimoe": ("phimoe", EXPERTS | {"router_jitter_noise": 0.3, "input_jitter_noise": 0.3, "sliding_window": None}),
    "olmoe": ("olmoe", EXPERTS),
    "ernie4-5": ("ernie4_5", {}),
    "hunyuan": ("hunyuan_v1_dense", {"head_dim": 16}),
    "doge": ("doge", {"hidden_dropout": 0.1, "attention_dropout": 0.1}),
    "diffllama": ("diffllama", {}),
    "deepseek-v2": ("deepseek_v2", EXPERTS | {
        "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
        "moe_intermediate_size": 48, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
        "n_group": 1, "topk_group": 1, "head_dim": 16,
    }),
    "deepseek-v3": ("deepseek_v3", EXPERTS | {
        "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
        "moe_intermediate_size": 48, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
        "n_group": 2, "topk_group": 1,
    }),
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "bitnet": ("bitnet", {}),
    "granite-scaled": ("granite", {"embedding_multiplier": 6.0, "logits_scaling": 8.0}),
    "cohere-scaled": ("cohere", {"logit_scale": 0.0625}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 40}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 40}),
    "gemma3-capped": ("gemma3_text", {"head_dim": 16, "sliding_window": 40, "final_logit_softcapping": 30.0}),
    "gemma3n": ("gemma3n_text", {
        "head_dim": 16, "sliding_window": 40, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 20_000,
        "layer_types": ["sliding_attention", "full_attention"] * 2, "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
    }),
    "gemma4": ("gemma4_text", {
        "head_dim": 16, "global_head_dim": 32, "sliding_window": 40, "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": 30.0,
    }),
    "gemma4-shared": ("gemma4_text", {
        "head_dim": 16, "global_head_dim": 32, "sliding_window": 40, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 20_000, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    }),
    "mistral-window": ("mistral", {"sliding_window": 40}),
    "mistral-window-1": ("mistral", {"sliding_window": 1}),
    "ministral": ("ministral", {"sliding_window": 40, "head_dim": 16}),
    "phi3-window": ("phi3", {"sliding_window": 40}),
    "starcoder2-window": ("starcoder2", {"sliding_window": 40}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}),
    "olmo3": ("olmo3", {"sliding_window": 40, "layer_types": ["sliding_attention", "full_attention"]}),
    "exaone4-window": ("exaone4", {
        "sliding_window": 40, "sliding_window_pattern": 2, "layer_types": ["sliding_attention", "full_attention"],
    }),
    "cohere2": ("cohere2", {"sliding_window": 40, "layer_types": ["sliding_attention", "full_attention"]}),
    "llama4": ("llama4_text", {
        "intermediate_size_mlp": 96, "num_local_experts": 2, "head_dim": 16, "attention_chunk_size": 40,
        "layer_types": ["chunked_attention", "full_attention"], "no_rope_layers": [1, 0],
    }),
    "gpt-oss": ("gpt_oss", EXPERTS | {"head_dim": 16, "sliding_window": 40}),
    "qwen3-5": ("qwen3_5_text", LINEAR),
    "qwen3-5-moe": ("qwen3_5_moe_text", LINEAR | EXPERTS | {
        "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    }),
    "qwen3-next": ("qwen3_next", LINEAR | EXPERTS | {
        "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    }),
    "olmo-hybrid": ("olmo_hybrid", {
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
    }),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "lfm2-moe": ("lfm2_moe", EXPERTS | {
        "layer_types": ["conv", "full_attention"], "moe_intermediate_size": 48, "num_dense_layers": 1,
    }),
    "falcon-h1": ("falcon_h1", {
        "lm_head_multiplier": 0.3, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "head_dim": 16,
        "mamba_d_state": 16, "mamba_chunk_size": 16,
    }),
    "granitemoehybrid": ("granitemoehybrid", EXPERTS | {
        "layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_head": 16,
        "mamba_d_state": 16, "mamba_chunk_size": 16, "logits_scaling": 4.0, "shared_intermediate_size": 48,
    }),
    "jamba": ("jamba", EXPERTS | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 8,
        "expert_layer_period": 2, "expert_layer_offset": 1, "use_mamba_kernels": False,
    }),
    "bamba": ("bamba", {
        "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
        "mamba_chunk_size": 16,
    }),
    "mamba": ("mamba", {"state_size": 8}),
    "mamba2": ("mamba2", {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 2, "chunk_size": 16}),
    "falcon-mamba": ("falcon_mamba", {"state_size": 8}),
    "recurrent-gemma": ("recurrent_gemma", {"num_hidden_layers": 3, "attention_window_size": 40, "head_dim": 16}),
    "rwkv": ("rwkv", {}),
}  # fmt: skip
"""By a name of ours: transformers' name of the family, and what is set apart from `SMALL`."""

LISTED = {
    "llama": "Llama",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "qwen3-5": "Qwen3.5 (linear attention)",
    "gemma3-capped": "Gemma 3 (windows, capped logits)",
    "gemma4-shared": "Gemma 4 (windows, shared keys)",
    "mistral-window": "Mistral with a window",
    "gpt-oss": "gpt-oss (windows, sinks, experts)",
    "granite-scaled": "Granite (scaled logits)",
    "cohere-scaled": "Cohere (scaled logits)",
    "cohere2": "Cohere 2 (windows, scaled logits)",
    "olmo-hybrid": "OLMo hybrid (linear attention)",
    "lfm2": "LFM2 (convolutions)",
    "qwen3-moe": "Qwen3-MoE",
    "mixtral": "Mixtral",
}
"""The families of docs/models.md, by the names above, and what the page calls them."""

WIDE = {"head_dim": 32, "global_head_dim": 64, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
"""Sizes of heads that vLLM takes on a CPU, with two heads for the queries."""


def wide_family_model(name, vocabulary):
    """The model of a family with heads that vLLM takes on a CPU."""
    _, settings = FAMILIES[name]
    wide = {key: size for key, size in WIDE.items() if key in settings}
    return family_model(name, vocabulary, changes={**wide, "num_attention_heads": 2, "num_key_value_heads": 1})


def swapped_experts(weights):
    """The weights, with the first two experts of the first layer of experts in each other's place."""
    layer = None
    for name, weight in weights:
        head, found, _ = name.partition(".experts.")
        if found and weight.dim() == 3 and (layer or head) == head:
            layer = head
            yield name, weight[[1, 0, *range(2, len(weight))]]
        else:
            yield name, weight


def family_model(name, vocabulary, seed=3, changes=None):
    """A model of a family with random weights, large enough for positions, masks and every layer to matter.

    `changes` are settings of its configuration that differ from `FAMILIES`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from spiral.models.files import attention_of

    kind, settings = FAMILIES[name]
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(kind, **{**SMALL, "vocab_size": vocabulary, **tokens, **settings, **(changes or {})})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attention = attention_of(AutoModelForCausalLM._model_mapping[type(config)], config)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_((0.1 if parameter.dim() > 1 else 0.3) * torch.randn(parameter.shape))
    return model
