"""What a folder holds that is not a Hugging Face checkpoint, and how to make one of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from svdjobs.storage.store import Store


class _Kind(NamedTuple):
    """A kind of files, known by their names."""

    pattern: str
    what: str
    command: str


# The first that matches names the folder. Commands: the documentation of PyTorch
# (torch.distributed.checkpoint.format_utils), verl (scripts/model_merger), DeepSpeed
# (zero_to_fp32.py), PEFT (merge_and_unload) and transformers (GGUF).
_KINDS = (
    _Kind(
        r"(.*/)?adapter_model\.(safetensors|bin)",
        "a LoRA adapter without its adapter_config.json",
        "fetch adapter_config.json too, or merge it: PeftModel.from_pretrained(...)"
        ".merge_and_unload().save_pretrained(FOLDER)",
    ),
    _Kind(
        r"(.*/)?model_world_size_\d+_rank_\d+\.pt",
        "an FSDP checkpoint of verl, a file for each process",
        "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir FOLDER",
    ),
    _Kind(
        r"(.*/)?(zero_pp_rank_.*|mp_rank_.*)_(optim|model)_states\.pt",
        "a DeepSpeed checkpoint",
        "python zero_to_fp32.py {folder} FOLDER --safe_serialization, then copy config.json and "
        "the tokenizer beside the weights",
    ),
    _Kind(
        r"(.*/)?(__\d+_\d+\.distcp|\.metadata)",
        "a checkpoint of torch.distributed.checkpoint (FSDP)",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} "
        "pytorch_model.bin, put it beside config.json and pass --allow-pickle",
    ),
    _Kind(
        r"(.*/)?(global_step_?\d+|checkpoint-\d+)/.*",
        "a trainer's output folder with checkpoints below it",
        "give the folder of one step, the one that holds config.json",
    ),
    _Kind(
        r".*\.gguf",
        "a GGUF file, whose weights are quantised",
        "take the checkpoint it was made from; or AutoModelForCausalLM.from_pretrained(FOLDER, "
        "gguf_file=...).save_pretrained(OTHER)",
    ),
    _Kind(
        r".*\.(pth|pt|ckpt)",
        "weights pickled by torch.save",
        "load them into the model's class and say model.save_pretrained(FOLDER)",
    ),
    _Kind(
        r".*\.(h5|msgpack|onnx|ot|tflite)",
        "weights of another framework",
        "convert them: AutoModelForCausalLM.from_pretrained(FOLDER, from_flax=True or from_tf=True)"
        ".save_pretrained(OTHER)",
    ),
    _Kind(
        r"(.*/)?(optimizer|scheduler|rng_state|training_args)\.?.*",
        "what a trainer keeps beside the weights, and not the weights",
        "give the folder that holds config.json and model.safetensors",
    ),
    _Kind(
        r".*\.safetensors",
        "safetensors files under other names",
        "name a single one model.safetensors; several need model.safetensors.index.json",
    ),
)


def what_it_is(store: Store, file: str | None = None) -> str:
    """A sentence on what lies there, or on one `file`, and the command that makes it readable;
    empty if unknown."""
    keys = store.keys("") if file is None else [file]
    for kind in _KINDS:
        if found := next((key for key in keys if re.fullmatch(kind.pattern, key)), None):
            command = kind.command.format(folder=store.url)
            return f" It holds {kind.what} ({found}). To make it readable: {command}."
    return ""
