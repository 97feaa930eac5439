"""Recognise a folder that is not a Hugging Face checkpoint, and say how to convert it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from svdjobs.storage.local import LocalStore
from svdjobs.storage.store import Readable


class _Kind(NamedTuple):
    """A kind of files, recognised by their names."""

    pattern: str
    what: str
    command: str


# The first kind that matches a file decides; {folder} is the folder of that file. The commands are
# from the documentation of PEFT, verl (model_merger), DeepSpeed (zero_to_fp32.py), Megatron Bridge,
# PyTorch (torch.distributed.checkpoint.format_utils) and transformers (GGUF).
_KINDS = (
    _Kind(
        r"(.*/)?adapter_model\.(safetensors|bin)",
        "a LoRA adapter without its adapter_config.json",
        "fetch adapter_config.json too, or merge it: PeftModel.from_pretrained(BASE, {folder})"
        ".merge_and_unload().save_pretrained(FOLDER)",
    ),
    _Kind(
        r"(.*/)?model_world_size_\d+_rank_\d+\.pt",
        "an FSDP checkpoint of verl, a file for each process",
        "python -m verl.model_merger merge --backend fsdp --local_dir {folder} --target_dir FOLDER",
    ),
    _Kind(
        r"(.*/)?(zero_pp_rank_|bf16_zero_pp_rank_|mp_rank_\d+_model_states).*\.pt",
        "a DeepSpeed checkpoint",
        "python zero_to_fp32.py {folder} FOLDER --safe_serialization in the folder above, then "
        "copy config.json and the tokenizer beside the weights",
    ),
    _Kind(
        r"(.*/)?(mp_rank_\d+(_\d+)?/model_optim_rng\.pt|common\.pt)",
        "a Megatron checkpoint",
        "AutoBridge.from_hf_pretrained(BASE).export_ckpt({folder}, FOLDER) of Megatron Bridge; for "
        "verl's, python -m verl.model_merger merge --backend megatron",
    ),
    _Kind(
        r"(.*/)?(__\d+_\d+\.distcp|\.metadata)",
        "a checkpoint of torch.distributed.checkpoint (FSDP), whose list of tensors is a pickle "
        "that runs code when opened",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} "
        "FOLDER/pytorch_model.bin if you trust it, put config.json and the tokenizer beside that, "
        "and pass --allow-pickle",
    ),
    _Kind(
        r"(.*/)?(global_step_?\d+|checkpoint-\d+|epoch_?\d+|step_?\d+)/.*",
        "a trainer's output, a folder for each step",
        "give the folder of one step, the one that holds config.json",
    ),
    _Kind(
        r"(.*/)?.*\.gguf",
        "a GGUF file, whose weights are quantised",
        "use the checkpoint it was made from; or AutoModelForCausalLM.from_pretrained({folder}, "
        "gguf_file=...).save_pretrained(FOLDER)",
    ),
    _Kind(
        r"(.*/)?(optimizer|scheduler|rng_state|training_args|trainer_state|scaler)[._].*",
        "files that a trainer keeps beside the weights, but no weights",
        "give the folder that holds config.json and model.safetensors",
    ),
    _Kind(
        r"(.*/)?.*\.(pth|pt|ckpt)",
        "weights pickled by torch.save",
        "load them into the model's class and call model.save_pretrained(FOLDER)",
    ),
    _Kind(
        r"(.*/)?.*\.(h5|msgpack|ot|onnx|tflite)",
        "weights of another framework",
        "use the checkpoint they were made from; or, with transformers 4, "
        "AutoModelForCausalLM.from_pretrained({folder}, from_flax=True or from_tf=True)"
        ".save_pretrained(FOLDER)",
    ),
    _Kind(
        r"(.*/)?.*\.safetensors",
        "safetensors files under other names or in another folder",
        "give the folder that holds config.json, with one file model.safetensors or with several "
        "and model.safetensors.index.json",
    ),
)
# Limits of the search of a folder (levels, files): it may be a whole home directory.
_DEEPEST, _MOST = 3, 2000


def what_it_is(store: Readable, file: str | None = None) -> str:
    """Say what kind of files a store holds (or what one `file` is), and how to make it readable.

    Return a sentence that begins with a space, or an empty string if the kind is unknown.
    """
    keys = sorted(_keys(store)) if file is None else [file]
    for kind in _KINDS:
        if found := next((key for key in keys if re.fullmatch(kind.pattern, key)), None):
            folder = f"{store.url}/{found}".rpartition("/")[0]
            command = kind.command.format(folder=folder)
            return f" It holds {kind.what} ({found}). To make it readable: {command}."
    return ""


def _keys(store: Readable) -> list[str]:
    """Return keys of a store, up to the limits of the search."""
    if not isinstance(store, LocalStore):
        return store.keys("")[:_MOST]
    keys: list[str] = []
    for folder, folders, files in os.walk(store.root):
        below = Path(folder).relative_to(store.root)
        if len(below.parts) >= _DEEPEST or len(keys) > _MOST:
            folders.clear()
        keys += [(below / name).as_posix() for name in files]
    return keys
