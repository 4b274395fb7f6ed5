"""The models of `any2pix bench` in PyTorch, for figures side by side on one machine:

    pip install torch diffusers transformers
    python examples/pytorch_peer.py            # all of them, in f32 and bf16
    python examples/pytorch_peer.py train-unet-8m

Weights are random, two threads compute, medians of three runs (twelve training steps) count. Set ANY2PIX to a program
and each case is followed by the same case of `any2pix bench`.
"""

import os
import statistics
import subprocess
import sys
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

THREADS = 2
SDXL_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
SDXL_UP = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")


def median_seconds(run, runs):
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def unet_sd15(dtype):
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    unet = unet.eval().to(dtype)
    sample, states = torch.randn(1, 4, 64, 64, dtype=dtype), torch.randn(1, 77, 768, dtype=dtype)
    return lambda: unet(sample, 500, encoder_hidden_states=states).sample


def unet_sdxl(dtype):
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(320, 640, 1280), down_block_types=SDXL_DOWN, up_block_types=SDXL_UP,
        transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ).eval().to(dtype)
    sample, states = torch.randn(1, 4, 64, 64, dtype=dtype), torch.randn(1, 77, 2048, dtype=dtype)
    added = {"text_embeds": torch.randn(1, 1280, dtype=dtype), "time_ids": torch.randn(1, 6, dtype=dtype)}
    return lambda: unet(sample, 500, encoder_hidden_states=states, added_cond_kwargs=added).sample


def vae_decode(dtype):
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval().to(dtype).to(memory_format=torch.channels_last)
    latents = torch.randn(1, 4, 64, 64, dtype=dtype)
    return lambda: vae.decode(latents).sample


def train_unet_8m(dtype):
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 160), down_block_types=SDXL_DOWN, up_block_types=SDXL_UP,
        layers_per_block=1, attention_head_dim=4, cross_attention_dim=64, use_linear_projection=True,
    )
    weights = list(unet.parameters())
    averages = [weight.detach().clone() for weight in weights]
    adam = torch.optim.AdamW(weights, 1e-4, fused=True)
    sample, noise = torch.randn(16, 4, 16, 16), torch.randn(16, 4, 16, 16)
    times, states = torch.randint(0, 1000, (16,)), torch.randn(16, 8, 64)

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            predicted = unet(sample, times, encoder_hidden_states=states).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights], 0.001)

    return step


CASES = {"unet-sd15": unet_sd15, "unet-sdxl": unet_sdxl, "vae-decode": vae_decode, "train-unet-8m": train_unet_8m}


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    for name in sys.argv[1:] or CASES:
        training = name.startswith("train")
        for dtype in (torch.float32, torch.bfloat16):
            with torch.inference_mode(not training):
                seconds = median_seconds(CASES[name](dtype), 12 if training else 3)
            print(f"{name} {str(dtype).removeprefix('torch.')}: {1e3 * seconds:.0f} ms", flush=True)
        if "ANY2PIX" in os.environ:
            subprocess.run([os.environ["ANY2PIX"], "bench", name, "--threads", str(THREADS)], check=True)


if __name__ == "__main__":
    main()
