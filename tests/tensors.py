#!/usr/bin/env python3
"""Writes `models/*/*/tensors.txt`: every tensor, by the official classes.

    pip install torch diffusers transformers timm ftfy regex iopath
    python tests/tensors.py instruct_pix2pix
    python tests/tensors.py instructany2pix FOLDER-OF-A-CHECKOUT-OF-ImageBind

Models are built from `models/*/*/config.json` on torch's meta device: no weights.
"""

import json
import pathlib
import re
import sys

import torch
from torch import nn

MODEL = pathlib.Path(__file__).parent.parent / "models" / sys.argv[1]


def config(component):
    return json.loads((MODEL / component / "config.json").read_text())


def tensors(model, prefix=""):
    return {prefix + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def diffusers_model(component):
    import diffusers

    settings = config(component)
    return tensors(getattr(diffusers, settings["_class_name"]).from_config(settings))


def clip_text(component, prefix=""):
    import transformers

    settings = config(component)
    model = getattr(transformers, settings["architectures"][0])
    found = tensors(model(transformers.CLIPTextConfig(**settings)))
    # Releases since 5 leave out the level that every published file names.
    heads = ("text_model.", "text_projection.")
    return {prefix + (n if n.startswith(heads) else "text_model." + n): s for n, s in found.items()}


def mlp2x_gelu(name, inputs, inner, outputs):
    mlp = nn.Sequential(nn.Linear(inputs, inner), nn.GELU(), nn.Linear(inner, outputs))
    return tensors(mlp, f"model.{name}.")


def llm():
    import transformers

    settings = config("llm")
    width, media = settings["hidden_size"], settings["mm_hidden_size"]
    llama = {k: v for k, v in settings.items() if not k.startswith("mm_") and k != "model_type"}
    found = tensors(transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama)))
    found |= mlp2x_gelu("vae_projector_image", media, width, width)
    found |= mlp2x_gelu("vae_predictor_image", width, width, media)
    return found | mlp2x_gelu("mm_projector", media, width, width)


def prior():
    import transformers

    settings = config("prior")
    width = settings["embed_dim"]
    found = tensors(transformers.GPT2Model(transformers.GPT2Config(**settings["gpt2_config"])), "model.")
    for name, rows in [("start_of_sequence_tokens", 32), ("end_of_sequence_tokens", 32), ("modality_embedding", 10)]:
        found |= tensors(nn.Embedding(rows, width), f"{name}.")
    for i, inputs in enumerate(settings["sequence_input_embed_dim"]):
        if inputs:
            found |= tensors(nn.Linear(inputs, width), f"input_sequence_embed_linear.{i}.")
    return found


def ip_adapter():
    """As the adapter's classes in the published pipeline: two linear maps an attention."""
    import diffusers

    settings = config("ip_adapter")
    width, tokens = settings["cross_attention_dim"], settings["clip_extra_context_tokens"]
    found = tensors(nn.Linear(settings["clip_embeddings_dim"], tokens * width), "image_proj.proj.")
    found |= tensors(nn.LayerNorm(width), "image_proj.norm.")
    found["image_proj.raw_embed"] = (2, width)
    unet = diffusers.UNet2DConditionModel.from_config(config("unet"))
    for i, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            outputs = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for key in ["to_k_ip", "to_v_ip"]:
                found[f"ip_adapter.{i}.{key}.weight"] = (outputs, width)
    return found


def imagebind(checkout):
    sys.path.insert(0, checkout)
    from imagebind.models.imagebind_model import imagebind_huge

    # It reads numbers of a range, which a meta tensor has not.
    linspace = torch.linspace
    torch.linspace = lambda *arguments: linspace(*arguments, device="cpu")
    return tensors(imagebind_huge(pretrained=False))


def fold(names):
    """Names that differ in one number only become one line: `a.{0..3}.b`, `a.{1..7:2}.b`."""
    lines = list(names.items())
    for place in reversed(range(8)):
        groups = {}
        for name, shape in lines:
            parts = re.split(r"(?<=\.)(\d+|\{[^}]*\})(?=\.)", name)
            at = 2 * place + 1
            if at < len(parts) and parts[at].isdigit():
                key = ("".join(parts[:at]), "".join(parts[at + 1 :]), shape)
                groups.setdefault(key, []).append(int(parts[at]))
            else:
                groups[(name, None, shape)] = []
        lines = []
        for (head, tail, shape), values in groups.items():
            for run in runs(sorted(values)):
                step = run[1] - run[0] if len(run) > 1 else 1
                several = f"{{{run[0]}..{run[-1]}{'' if step == 1 else f':{step}'}}}"
                lines.append((head + (several if len(run) > 1 else str(run[0])) + tail, shape))
            if tail is None:
                lines.append((head, shape))
    return lines


def runs(values):
    """Splits numbers where the step between them changes; a step is 1 or 2."""
    found = []
    for value in values:
        run = found[-1] if found else []
        step = value - run[-1] if run else 0
        if step in (1, 2) and (len(run) == 1 or run[1] - run[0] == step):
            run.append(value)
        else:
            found.append([value])
    return found


def write(component, names, source):
    rows = [f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in sorted(fold(names))]
    count = sum(torch.Size(shape).numel() for shape in names.values())
    head = [f"# {source}", f"# {len(names)} tensors, {count} numbers"]
    (MODEL / component / "tensors.txt").write_text("\n".join(head + rows) + "\n")
    print(component, len(names), len(rows), count)


def in_order(name, table):
    """The first rule that fits a name, from diffusers' way to that of latent diffusion's authors."""
    for pattern, new in table:
        if re.match(pattern, name):
            return re.sub(pattern, new, name, count=1)
    return name


# Inside a residual block, in both networks of latent diffusion.
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
RESNET |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def ldm_unet(name, resnets=2):
    """`openaimodel.py`: blocks are counted through; a resnet, its attention, a change of size."""
    parts = name.split(".")
    kind = parts[2] if parts[0] in ("down_blocks", "up_blocks") else parts[1] if parts[0] == "mid_block" else ""
    tail = parts[4:] if kind and parts[0] != "mid_block" else parts[3:]
    if kind == "resnets":
        tail = [RESNET[tail[0]]] + tail[1:]
    if parts[0] == "down_blocks":
        level, i = int(parts[1]), int(parts[3])
        block = 1 + (resnets + 1) * level + (resnets if kind == "downsamplers" else i)
        place = {"resnets": "0", "attentions": "1", "downsamplers": "0"}[kind]
        tail = ["op"] + tail[1:] if kind == "downsamplers" else tail
        return ".".join(["input_blocks", str(block), place] + tail)
    if parts[0] == "up_blocks":
        level, i = int(parts[1]), int(parts[3])
        block = (resnets + 1) * level + (resnets if kind == "upsamplers" else i)
        # The first level has no attention before its change of size.
        place = {"resnets": "0", "attentions": "1", "upsamplers": "1" if level == 0 else "2"}[kind]
        return ".".join(["output_blocks", str(block), place] + tail)
    if parts[0] == "mid_block":
        place = "1" if kind == "attentions" else str(2 * int(parts[2]))
        return ".".join(["middle_block", place] + tail)
    return in_order(name, [
        (r"time_embedding\.linear_1", "time_embed.0"), (r"time_embedding\.linear_2", "time_embed.2"),
        (r"conv_in", "input_blocks.0.0"), (r"conv_norm_out", "out.0"), (r"conv_out", "out.2"),
    ])


def ldm_codec(name, levels=4):
    """`model.py` of latent diffusion: levels of the decoder are counted from the other end."""
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for new, old in attention.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{1 + int(m[1])}", name)
    name = re.sub(r"down_blocks\.(\d)", r"down.\1", name)
    name = name.replace(".resnets.", ".block.").replace("downsamplers.0", "downsample")
    name = name.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
    return name.replace("conv_norm_out", "norm_out")


def ldm_shape(name, shape):
    """Attention of the codec is made of convolutions of one pixel."""
    return (*shape, 1, 1) if ".mid.attn_1." in name and len(shape) == 2 else shape


def one_file():
    """The file of InstructPix2Pix' authors: weights, the UNet's average, a noise schedule."""
    unet = {f"diffusion_model.{ldm_unet(n)}": s for n, s in diffusers_model("unet").items()}
    found = {f"model.{n}": s for n, s in unet.items()}
    found |= {"model_ema." + n.replace(".", ""): s for n, s in unet.items()}
    found |= {"model_ema.decay": (), "model_ema.num_updates": ()}
    codec = {f"first_stage_model.{ldm_codec(n)}": s for n, s in diffusers_model("vae").items()}
    found |= {n: ldm_shape(n, s) for n, s in codec.items()}
    found |= clip_text("text_encoder", "cond_stage_model.transformer.")
    found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = (1, 77)
    schedule = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "log_one_minus_alphas_cumprod"]
    schedule += [f"sqrt_{n}" for n in ("alphas_cumprod", "one_minus_alphas_cumprod")]
    schedule += [f"sqrt_{n}" for n in ("recip_alphas_cumprod", "recipm1_alphas_cumprod")]
    schedule += [f"posterior_{n}" for n in ("variance", "log_variance_clipped", "mean_coef1", "mean_coef2")]
    found |= {n: (1000,) for n in schedule}
    return {f"state_dict.{n}": s for n, s in found.items()}


def instructany2pix(hf, clip):
    for component in ["unet", "refiner_unet", "vae"]:
        write(component, diffusers_model(component), f"{hf}, {config(component)['_class_name']}")
    for component in ["text_encoder", "text_encoder_2"]:
        write(component, clip_text(component), f"{clip}, {config(component)['architectures'][0]}")
    write("llm", llm(), f"{clip}, LlamaForCausalLM, and the projectors of torch.nn.Linear")
    write("prior", prior(), f"{clip}, GPT2Model, and torch.nn layers around it")
    text = clip_text("prior_text_encoder", "cond_stage_models.0.model.")
    write("prior_text_encoder", text, f"{clip}, CLIPTextModel")
    write("ip_adapter", ip_adapter(), f"{hf}, the order of UNet2DConditionModel.attn_processors")
    write("imagebind", imagebind(sys.argv[2]), "facebookresearch/ImageBind, imagebind_huge")


def instruct_pix2pix(hf, clip):
    for component in ["unet", "vae"]:
        write(component, diffusers_model(component), f"{hf}, {config(component)['_class_name']}")
    write("text_encoder", clip_text("text_encoder"), f"{clip}, CLIPTextModel")
    write("one_file", one_file(), f"{hf}, by the names of latent diffusion's authors")


def main():
    import diffusers
    import transformers

    hf, clip = f"diffusers {diffusers.__version__}", f"transformers {transformers.__version__}"
    with torch.device("meta"):
        {"instructany2pix": instructany2pix, "instruct_pix2pix": instruct_pix2pix}[sys.argv[1]](hf, clip)


if __name__ == "__main__":
    main()
