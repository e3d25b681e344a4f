"""Export a checkpoint for other software: Hugging Face's layout with sharded safetensors, tokenizer, chat template.

Three formats: fp32 unchanged, bf16 rounded to nearest, and the released one (engine/model/fp8). Router biases stay in
fp32 in each, since they move by 1e-3 and decide which expert is chosen. Tensors are converted one by one, so memory
stays flat.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import UserError
from engine.model.checkpoint import CONFIG, EXTRA, checked, load_config, released_shapes
from engine.model.fp8 import QUANTIZATION, SUFFIX, block_scales, is_quantised, quantise, scale_shape
from engine.model.tensorfile import INDEX, Spec, TensorFiles, write_tensors
from engine.model.tokenizer_of import TOKENIZER_SETTINGS, check_tokenizer
from engine.text.chat import TEMPLATE
from engine.text.special import BOS, EOS, IM_END, PAD, UNK
from engine.text.tokenizer import TOKENIZER, K2Tokenizer

DTYPES = ("float32", "bfloat16", "fp8")
TOKENIZER_FILES = (TOKENIZER, TEMPLATE.name)
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Exported:
    """The result of an export: the number of shards and tensors, and their bytes."""

    shards: int
    tensors: int
    bytes: int


def export_checkpoint(
    checkpoint: Path, tokenizer: Path, out: Path, dtype: str, shard_bytes: int = SHARD_BYTES
) -> Exported:
    """Write `checkpoint` and `tokenizer` into the empty or new directory `out`.

    Args:
        checkpoint: a directory of `save_checkpoint`.
        tokenizer: a directory with tokenizer.json, tokenizer_config.json and chat_template.jinja.
        out: created if needed.
        dtype: one of `DTYPES`.
        shard_bytes: most bytes of a shard's tensors; a larger tensor gets its own shard.

    Raises:
        UserError: an unknown dtype, or a checkpoint of another tokenizer or a damaged one; the message names the
            directory and the tensor that is missing, foreign, misshapen or holds NaN or infinity.

    """
    if dtype not in DTYPES:
        raise UserError(f"there is no export dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if shard_bytes < 1:
        raise UserError(f"a shard of {shard_bytes} bytes holds nothing; give a positive size")
    config, extra = load_config(checkpoint)
    tok = K2Tokenizer.load(tokenizer)
    check_tokenizer(config.vocab_size, extra, tok, str(checkpoint))
    shapes = released_shapes(config)
    read = checked(TensorFiles(checkpoint), shapes, str(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    done = _write_shards(read, shapes, out, dtype, shard_bytes)
    ids = {"bos_token_id": tok.special(BOS), "eos_token_id": tok.eos_id, "pad_token_id": tok.pad_id}
    values = {**config.to_dict(), **ids, EXTRA: extra, "torch_dtype": "float32" if dtype == "float32" else "bfloat16"}
    _write_json(out / CONFIG, values | ({"quantization_config": QUANTIZATION} if dtype == "fp8" else {}))
    # A turn ends in <|im_end|>, which the released config leaves out: without it a chat would not stop.
    _write_json(out / "generation_config.json", ids | {"eos_token_id": [tok.im_end_id, tok.eos_id]})
    _write_tokenizer(tokenizer, out, config.max_position_embeddings)
    return done


def stored_specs(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Spec]:
    """Return how a weight is stored: itself, or in FP8 itself and its scales."""
    if dtype == "float32" or name.endswith("e_score_correction_bias"):
        return {name: Spec(torch.float32, shape)}
    if dtype == "fp8" and is_quantised(name):
        scales = Spec(torch.float32, scale_shape(shape))
        return {name: Spec(torch.float8_e4m3fn, shape), name + SUFFIX: scales}
    return {name: Spec(torch.bfloat16, shape)}


def _stored(read: Callable[[str], Tensor], name: str, spec: Spec) -> Tensor:
    if name.endswith(SUFFIX):
        return block_scales(read(name.removesuffix(SUFFIX)))
    weight = read(name)
    return quantise(weight, block_scales(weight)) if spec.dtype == torch.float8_e4m3fn else weight.to(spec.dtype)


def _shards(parts: Iterable[dict[str, Spec]], shard_bytes: int) -> Iterator[dict[str, Spec]]:
    """Yield shards with the weights, each with its scales, in order."""
    shard: dict[str, Spec] = {}
    held = 0
    for part in parts:
        size = sum(spec.nbytes for spec in part.values())
        if shard and held + size > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard |= part
        held += size
    yield shard


def _write_shards(
    read: Callable[[str], Tensor], shapes: dict[str, tuple[int, ...]], out: Path, dtype: str, shard_bytes: int
) -> Exported:
    shards = list(_shards((stored_specs(name, shape, dtype) for name, shape in shapes.items()), shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(out / file, shard, lambda name, specs=shard: _stored(read, name, specs[name]))  # type: ignore[misc]
        weight_map |= dict.fromkeys(shard, file)
    total = sum(spec.nbytes for shard in shards for spec in shard.values())
    _write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return Exported(len(shards), len(weight_map), total)


def _write_tokenizer(tokenizer: Path, out: Path, context: int) -> None:
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, out / name)
    settings = json.loads((tokenizer / TOKENIZER_SETTINGS).read_bytes())
    _write_json(out / TOKENIZER_SETTINGS, {**settings, "model_max_length": context})
    tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "unk_token": UNK}
    _write_json(out / "special_tokens_map.json", {**tokens, "additional_special_tokens": [IM_END]})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
