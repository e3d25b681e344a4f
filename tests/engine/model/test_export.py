"""What is exported is what transformers loads: same weights, logits, ids, chats and greedy text; and it comes back."""

import json
import weakref

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from engine.errors import UserError
from engine.model.checkpoint import load_checkpoint, load_config, save_checkpoint
from engine.model.export import export_checkpoint
from engine.model.fp8 import SUFFIX, is_quantised
from engine.model.model import K2Model
from engine.model.released import ReleasedWeights, import_checkpoint
from engine.model.tensorfile import Spec, TensorFiles, write_tensors
from engine.rollout.generate import generate
from engine.text.chat import encode_chat, render
from tests.engine.tiny import YARN, config

SHARD = 60_000
CHAT = [
    {"role": "user", "content": "Wie geht's? <3"},
    {"role": "assistant", "content": "Gut.", "tool_calls": [
        {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}]},
    {"role": "tool", "tool_call_id": "functions.f:0", "content": "5"},
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    """A checkpoint whose dense layers exceed a block, with gains and router biases off their start."""
    c = config(vocab_size=704, hidden_size=136, intermediate_size=130, rope_scaling=YARN, initializer_range=0.1)
    model = K2Model(c, seed=3)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=random), alpha=0.3 if "norm" in name else 0.1)
    directory = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(directory, model, {"stage": "pretrain", "tokenizer": tokenizer.digest, "trained_length": 16})
    return directory


@pytest.fixture(scope="module")
def exported(tmp_path_factory, checkpoint, tokenizer_dir):
    out = {}
    for dtype in ("float32", "bfloat16", "fp8"):
        out[dtype] = tmp_path_factory.mktemp(dtype)
        done = export_checkpoint(checkpoint, tokenizer_dir, out[dtype], dtype, SHARD)
        assert done.shards == len(list(out[dtype].glob("model-*.safetensors")))
    return out


def weights_of(directory):
    files = TensorFiles(directory)
    return {name: files[name] for name in files}


def test_shards_hold_every_tensor_once_and_no_more_than_asked(exported):
    for directory in exported.values():
        index = json.loads((directory / "model.safetensors.index.json").read_text())
        shards = {path.name: load_file(path) for path in directory.glob("*.safetensors")}
        assert len(shards) > 2
        assert {name: file for file, held in shards.items() for name in held} == index["weight_map"]
        sizes = [sum(tensor.nbytes for tensor in held.values()) for held in shards.values()]
        assert sum(sizes) == index["metadata"]["total_size"]
        assert all(size <= SHARD or len(held) <= 2 for size, held in zip(sizes, shards.values(), strict=True))


def test_fp32_keeps_every_bit_and_bf16_rounds_to_nearest(checkpoint, exported):
    source = load_file(checkpoint / "model.safetensors")
    whole, half = weights_of(exported["float32"]), weights_of(exported["bfloat16"])
    assert whole.keys() == half.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(whole[name], tensor)
        if name.endswith("e_score_correction_bias"):
            assert torch.equal(half[name], tensor)
            continue
        assert half[name].dtype == torch.bfloat16
        bits = half[name].view(torch.int16)
        error = (half[name].double() - tensor.double()).abs()
        for neighbour in (bits + 1, bits - 1):
            assert (error <= (neighbour.view(torch.bfloat16).double() - tensor.double()).abs()).all(), name


def test_fp8_is_the_released_layout(checkpoint, exported):
    source, files = load_file(checkpoint / "model.safetensors"), weights_of(exported["fp8"])
    assert {name for name in files if not name.endswith(SUFFIX)} == source.keys()
    meant = ReleasedWeights(files, "here")
    for name, tensor in source.items():
        if is_quantised(name):
            assert files[name].dtype == torch.float8_e4m3fn
            assert files[name.replace("weight", "weight_scale_inv")].dtype == torch.float32
            limit = torch.maximum(tensor.abs() / 16, tensor.abs().max() / 448 * 2**-10) * (1 + 1e-5)
            assert ((meant[name] - tensor).abs() <= limit).all(), name
        else:
            assert files[name].dtype == (torch.float32 if name.endswith("bias") else torch.bfloat16)
            assert name + SUFFIX not in files
    settings = json.loads((exported["fp8"] / "config.json").read_text())["quantization_config"]
    assert settings == {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.no_grad()
def test_transformers_loads_it_and_gives_the_same_logits(checkpoint, exported, dtype):
    theirs = AutoModelForCausalLM.from_pretrained(
        exported[dtype], dtype=getattr(torch, dtype), attn_implementation="eager", experts_implementation="eager"
    )
    ours = load_checkpoint(exported[dtype]).eval()
    ids = torch.randint(0, 700, (2, 30), generator=torch.Generator().manual_seed(1))
    if dtype == "float32":
        for name, tensor in load_checkpoint(checkpoint).state_dict().items():
            assert torch.equal(theirs.state_dict()[name if name.startswith("lm_head") else f"model.{name}"], tensor)
    else:
        assert theirs.dtype == torch.bfloat16
        theirs = theirs.float()  # the same rounded weights; computing in bf16 as well would hide a wrong one
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-5


@torch.no_grad()
def test_greedy_text_is_the_same_while_the_choice_is_clear(exported, tokenizer):
    theirs = AutoModelForCausalLM.from_pretrained(exported["float32"], attn_implementation="eager")
    ours, steps, compared = load_checkpoint(exported["float32"]).eval(), 12, 0
    for seed in range(4):
        prompt = torch.randint(0, 600, (1, 7), generator=torch.Generator().manual_seed(seed))
        answer = theirs.generate(
            prompt, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        mine = generate(ours, [prompt[0].tolist()], steps, 0.0, 0, tokenizer.im_end_id)[0].tokens
        for token, logits, own in zip(answer.sequences[0, 7:].tolist(), answer.logits, mine, strict=False):
            best = logits[0].topk(2).values
            if best[0] - best[1] <= 1e-4:
                break
            assert own == token
            compared += 1
    assert compared >= 24


def test_the_tokenizer_and_its_template_are_transformers_own(exported, tokenizer):
    theirs = AutoTokenizer.from_pretrained(exported["bfloat16"])
    for text in ("Hello world", "def f(x):\n    return x", "中文 ñ 12345", "  \n\n  x"):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert theirs.eos_token == "[EOS]"
    assert theirs.pad_token_id == tokenizer.pad_id
    assert theirs.model_max_length == 64
    for tools in (None, TOOLS):
        assert theirs.apply_chat_template(CHAT, tools=tools, tokenize=False, add_generation_prompt=True) == render(
            CHAT, tools, add_generation_prompt=True
        )
        ids = theirs.apply_chat_template(CHAT, tools=tools, return_dict=False, add_generation_prompt=True)
        assert ids == encode_chat(tokenizer, CHAT, tools, add_generation_prompt=True)[0]


def test_generation_stops_where_a_turn_or_a_text_ends(exported, tokenizer):
    values = json.loads((exported["bfloat16"] / "generation_config.json").read_text())
    assert values["eos_token_id"] == [tokenizer.im_end_id, tokenizer.eos_id]
    c = AutoConfig.from_pretrained(exported["bfloat16"])
    assert (c.bos_token_id, c.eos_token_id) == (tokenizer.special("[BOS]"), tokenizer.eos_id)


def test_import_of_fp32_brings_the_same_bytes_back(checkpoint, exported, tmp_path):
    _, extra = load_config(exported["float32"])
    import_checkpoint(exported["float32"], tmp_path / "back", extra)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (checkpoint / file).read_bytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_import_of_smaller_formats_holds_what_they_mean(exported, tmp_path, dtype):
    import_checkpoint(exported[dtype], tmp_path / "back", {})
    meant = ReleasedWeights(TensorFiles(exported[dtype]), "here")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == set(meant)
    for name, tensor in back.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, meant[name]), name
    load_checkpoint(tmp_path / "back")


def test_what_transformers_saves_is_imported(exported, tmp_path):
    AutoModelForCausalLM.from_pretrained(exported["float32"]).save_pretrained(tmp_path / "theirs")
    import_checkpoint(tmp_path / "theirs", tmp_path / "back", {})
    assert torch.equal(
        load_checkpoint(tmp_path / "back").lm_head.weight, load_checkpoint(exported["float32"]).lm_head.weight
    )
    assert load_config(tmp_path / "back")[0] == load_config(exported["float32"])[0]


@pytest.fixture
def theirs(exported, tmp_path):
    """A whole FP8 checkpoint to damage."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    for path in exported["fp8"].iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


def rewrite(directory, name, change):
    """Replace one tensor, or drop it, in its shard and the index."""
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    path = directory / index["weight_map"][name]
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    if changed is None:
        del index["weight_map"][name]
    else:
        tensors[name] = changed
    save_file(tensors, path)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


EMBEDDING, PROJECTION = "model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight"
NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda d: rewrite(d, EMBEDDING, with_nan), "embed_tokens.weight holds NaN"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, with_nan), "o_proj.weight_scale_inv holds the scale nan"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: t * 0), "o_proj.weight_scale_inv holds the scale 0.0"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: -t), "o_proj.weight_scale_inv holds the scale -"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: t / 0), "o_proj.weight_scale_inv holds the scale inf"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: t.double() * 1e-60), "holds the scale 0.0"),
        (lambda d: rewrite(d, EMBEDDING, lambda t: None), "embed_tokens.weight is missing"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: None), "o_proj.weight is FP8, but .* is missing"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: t[:1, :0]), "scale_inv is of shape"),
        (lambda d: rewrite(d, EMBEDDING, lambda t: t[:600].clone()), r"\(600, 136\), but config.json asks for \(704"),
        (lambda d: rewrite(d, PROJECTION, lambda t: t.float().to(torch.float8_e5m2)), "o_proj.weight is float8_e5m2"),
        (lambda d: rewrite(d, EMBEDDING, lambda t: t.to(torch.int8)), "embed_tokens.weight is int8"),
        (lambda d: rewrite(d, PROJECTION, lambda t: t.bfloat16()), "o_proj.weight is bfloat16, but has scales in"),
        (lambda d: rewrite(d, PROJECTION + SUFFIX, lambda t: t.to(torch.int8)), "o_proj.weight_scale_inv is int8"),
        (lambda d: rewrite(d, NORM, lambda t: t.to(torch.float8_e4m3fn)), "norm.weight is FP8, but .* is missing"),
        (lambda d: rewrite(d, PROJECTION, lambda t: t.flatten()), r"o_proj.weight is FP8 of shape \(3264,\), but"),
        (lambda d: rewrite(d, PROJECTION, lambda t: None), "o_proj.weight_scale_inv does not belong"),
        (lambda d: next(d.glob("model-00002*")).unlink(), "model-00002.* does not exist"),
        (lambda d: next(d.glob("model-00002*")).write_bytes(b"12345678"), "truncated or not a safetensors"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "lacks a weight_map"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}'), "points outside"),
        (lambda d: (d / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}'), "LlamaForCausalLM"),
        (lambda d: (d / "config.json").unlink(), "config.json does not exist"),
    ],
)
def test_a_foreign_or_damaged_checkpoint_is_refused_in_one_sentence(theirs, tmp_path, damage, named):
    damage(theirs)
    with pytest.raises(UserError, match=named) as refused:
        import_checkpoint(theirs, tmp_path / "out", {})
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"weight_block_size": [64, 64]}, r".weight_block_size is \[64, 64\]"),
        ({"weight_block_size": None}, ".weight_block_size is None"),
        ({"weight_block_size": [128]}, r".weight_block_size is \[128\]"),
        ({"fmt": "e5m2"}, ".fmt is 'e5m2'"),
        ({"quant_method": "compressed-tensors"}, ".quant_method is 'compressed-tensors'"),
        ({"activation_scheme": "none"}, ".activation_scheme is 'none'"),
        ({"config_groups": {"group_0": {}}}, ".config_groups is .*, which the released format does not have"),
        ([], r" is \[\], which is not an object"),
    ],
)
def test_an_fp8_configuration_of_another_format_is_refused_by_field(theirs, tmp_path, settings, field):
    path = theirs / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] = {**values["quantization_config"], **settings} if settings else settings
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"config.json: quantization_config{field}"):
        import_checkpoint(theirs, tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"activation_scheme": "static"}, {"scale_fmt": "ue8m0"}, {"fmt": None}])
def test_what_an_fp8_configuration_says_besides_is_no_obstacle(theirs, tmp_path, settings):
    path = theirs / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] |= settings
    path.write_text(json.dumps(values))
    import_checkpoint(theirs, tmp_path / "out", {})


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_any_plain_float_is_read_as_fp32(theirs, tmp_path, dtype):
    stored = TensorFiles(theirs)[EMBEDDING].to(dtype)
    rewrite(theirs, EMBEDDING, lambda _: stored)
    import_checkpoint(theirs, tmp_path / "back", {})
    assert torch.equal(load_file(tmp_path / "back" / "model.safetensors")[EMBEDDING], stored.float())


@pytest.mark.parametrize("dtype", ["float32", "fp8"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t[:-1].clone(), r"o_proj.weight has shape \(135, 24\), but config.json asks for \(136, 24\)"),
        (lambda t: t.flatten(), "o_proj.weight has shape"),
        (with_nan, "o_proj.weight holds NaN or infinity"),
        (lambda t: t / 0, "o_proj.weight holds NaN or infinity"),
        (lambda t: None, "o_proj.weight is missing"),
    ],
)
def test_a_damaged_checkpoint_is_not_exported(checkpoint, tokenizer_dir, tmp_path, dtype, change, named):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    changed = change(tensors.pop(PROJECTION))
    save_file(tensors if changed is None else {**tensors, PROJECTION: changed}, source / "model.safetensors")
    with pytest.raises(UserError, match=named) as refused:
        export_checkpoint(source, tokenizer_dir, tmp_path / "out", dtype)
    assert str(refused.value).startswith(f"{source}: tensor ")
    assert "\n" not in str(refused.value)


def test_a_file_that_its_index_does_not_match_is_refused(theirs):
    index = json.loads((theirs / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.9.extra"] = index["weight_map"][EMBEDDING]
    (theirs / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"layers\.9\.extra is not in model-"):
        TensorFiles(theirs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dtype": "int4"}, "no export dtype 'int4'"),
        ({"shard_bytes": 0}, "shard of 0 bytes"),
    ],
)
def test_an_impossible_export_is_refused(checkpoint, tokenizer_dir, tmp_path, change, named):
    with pytest.raises(UserError, match=named):
        export_checkpoint(checkpoint, tokenizer_dir, tmp_path, **{"dtype": "float32", **change})


def test_another_tokenizer_is_refused(checkpoint, tokenizer, tokenizer_dir, tmp_path):
    other = tmp_path / "other"
    save_checkpoint(other, load_checkpoint(checkpoint), {"tokenizer": "0" * 32})
    with pytest.raises(UserError, match=f"tokenizer {'0' * 32}, but the one given is {tokenizer.digest}"):
        export_checkpoint(other, tokenizer_dir, tmp_path / "out", "float32")
    with pytest.raises(UserError, match="names tokenizer 0000"):
        load_checkpoint(other, tokenizer.digest)
    save_checkpoint(other, K2Model(config(vocab_size=699)), {})
    with pytest.raises(UserError, match="vocab_size is 699, but the tokenizer has 700"):
        export_checkpoint(other, tokenizer_dir, tmp_path / "out", "float32")


def test_the_file_is_what_safetensors_would_write(tmp_path):
    tensors = {
        "b": torch.randn(3, 5), "a": torch.randn(7).bfloat16(), "c.é": torch.zeros(0, 2),
        "f": torch.randn(4, 4).to(torch.float8_e4m3fn), "d": torch.randn(2),
    }  # fmt: skip
    specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_tensors(tmp_path / "x", specs, tensors.__getitem__)
    assert (tmp_path / "x").read_bytes() == save(tensors, metadata={"format": "pt"})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert torch.equal(file.get_tensor("b"), tensors["b"])


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8"])
def test_no_more_than_two_tensors_are_held_at_once(checkpoint, exported, tokenizer_dir, tmp_path, monkeypatch, dtype):
    """Out and back: memory is that of a tensor and its converted form, however many there are."""
    read, most = TensorFiles.__getitem__, 0
    alive = weakref.WeakSet()

    def watched(files, name):
        nonlocal most
        tensor = read(files, name)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(TensorFiles, "__getitem__", watched)
    export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "out", dtype, SHARD)
    import_checkpoint(tmp_path / "out", tmp_path / "back", {})
    assert 1 <= most <= 2
