"""Workflows of the shapes that people use, as ComfyUI exports them: each a function, so that no test changes another's."""

from __future__ import annotations

from typing import Any

Graph = dict[str, Any]


def node(class_type: str, title: str | None = None, /, **inputs: Any) -> Graph:
    found: Graph = {"class_type": class_type, "inputs": inputs}
    return found if title is None else found | {"_meta": {"title": title}}


def loader(**outputs: Any) -> Graph:
    return node("CheckpointLoaderSimple", "Load Checkpoint", ckpt_name="sd.safetensors")


def encode(text: Any, clip: str = "4", title: str = "CLIP Text Encode (Prompt)") -> Graph:
    return node("CLIPTextEncode", title, text=text, clip=[clip, 1])


def sampler(
    latent: str, positive: Any = "6", negative: Any = "7", title: str = "KSampler", **more: Any
) -> Graph:
    usual: Graph = {
        "seed": 156680208700286,
        "steps": 20,
        "cfg": 8,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1,
        "model": ["4", 0],
        "positive": [positive, 0],
        "negative": [negative, 0],
        "latent_image": [latent, 0],
    }
    return node("KSampler", title, **usual | more)


def ending(samples: str) -> Graph:
    return {
        "8": node("VAEDecode", "VAE Decode", samples=[samples, 0], vae=["4", 2]),
        "9": node("SaveImage", "Save Image", filename_prefix="ComfyUI", images=["8", 0]),
    }


def sd15() -> Graph:
    return {
        "3": sampler("5"),
        "4": loader(),
        "5": node("EmptyLatentImage", "Empty Latent Image", width=512, height=768, batch_size=1),
        "6": encode("a glass bottle"),
        "7": encode("text, watermark"),
        **ending("3"),
    }


def image_to_image() -> Graph:
    """The latent is a picture that was uploaded; an empty one lies about unused."""
    graph = sd15() | {
        "10": node("LoadImage", "Load Image", image="example.png"),
        "11": node("VAEEncode", "VAE Encode", pixels=["10", 0], vae=["4", 2]),
    }
    graph["3"] = sampler("11", denoise=0.87)
    return graph


def inpainting() -> Graph:
    graph = sd15() | {
        "5": node("LoadImageMask", "Load Image (as Mask)", image="mask.png", channel="alpha"),
        "10": node("LoadImage", "What is changed", image="example.png"),
        "11": node("LoadImage", "Reference", image="example.png"),
        "12": node(
            "InpaintModelConditioning", "InpaintModelConditioning",
            positive=["6", 0], negative=["7", 0], vae=["4", 2], pixels=["10", 0], mask=["5", 0], noise_mask=True,
        ),
        "13": node("ControlNetLoader", "Load ControlNet Model", control_net_name="c.safetensors"),
        "14": node(
            "ControlNetApplyAdvanced", "Apply ControlNet", strength=0.8, start_percent=0, end_percent=1,
            positive=["12", 0], negative=["12", 1], control_net=["13", 0], image=["11", 0],
        ),
    }  # fmt: skip
    graph["3"] = sampler("12", "14", "14", latent_image=["12", 2])
    graph["3"]["inputs"]["negative"] = ["14", 1]
    return graph


def sdxl_with_refiner() -> Graph:
    def advanced(title: str, **more: Any) -> Graph:
        usual: Graph = {
            "add_noise": "enable",
            "noise_seed": 721897303308196,
            "steps": 25,
            "cfg": 8,
            "sampler_name": "euler",
            "scheduler": "normal",
            "start_at_step": 0,
            "end_at_step": 20,
            "return_with_leftover_noise": "enable",
        }
        return node("KSamplerAdvanced", title, **usual | more)

    return {
        "4": node("CheckpointLoaderSimple", "Load Checkpoint - BASE", ckpt_name="base.safetensors"),
        "12": node("CheckpointLoaderSimple", "Load Checkpoint - REFINER", ckpt_name="refiner.safetensors"),
        "11": advanced(
            "KSampler (Advanced) - REFINER", add_noise="disable", noise_seed=0, start_at_step=20, end_at_step=10000,
            model=["12", 0], positive=["15", 0], negative=["16", 0], latent_image=["10", 0],
        ),
        "10": advanced(
            "KSampler (Advanced) - BASE", model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]
        ),
        "5": node("EmptyLatentImage", "Empty Latent Image", width=1024, height=1024, batch_size=1),
        "6": encode("evening sunset"),
        "7": encode("text, watermark"),
        "15": encode("evening sunset", "12"),
        "16": encode("text, watermark", "12"),
        "17": node("VAEDecode", "VAE Decode", samples=["11", 0], vae=["12", 2]),
        "19": node("SaveImage", "Save Image", filename_prefix="ComfyUI", images=["17", 0]),
    }  # fmt: skip


def flux() -> Graph:
    """A guider, a noise, sigmas, and the size in primitives that three nodes share."""
    return {
        "6": node("CLIPTextEncode", "CLIP Text Encode (Positive Prompt)", text="a fennec", clip=["11", 0]),
        "8": node("VAEDecode", "VAE Decode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", "Save Image", filename_prefix="ComfyUI", images=["8", 0]),
        "10": node("VAELoader", "Load VAE", vae_name="ae.safetensors"),
        "11": node("DualCLIPLoader", "DualCLIPLoader", clip_name1="a", clip_name2="b", type="flux"),
        "12": node("UNETLoader", "Load Diffusion Model", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "13": node(
            "SamplerCustomAdvanced", "SamplerCustomAdvanced",
            noise=["25", 0], guider=["22", 0], sampler=["16", 0], sigmas=["17", 0], latent_image=["27", 0],
        ),
        "16": node("KSamplerSelect", "KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", "BasicScheduler", scheduler="simple", steps=20, denoise=1, model=["30", 0]),
        "22": node("BasicGuider", "BasicGuider", model=["30", 0], conditioning=["26", 0]),
        "25": node("RandomNoise", "RandomNoise", noise_seed=219670278747233),
        "26": node("FluxGuidance", "FluxGuidance", guidance=3.5, conditioning=["6", 0]),
        "27": node("EmptySD3LatentImage", "EmptySD3LatentImage", width=["34", 0], height=["35", 0], batch_size=1),
        "30": node(
            "ModelSamplingFlux", "ModelSamplingFlux",
            max_shift=1.15, base_shift=0.5, width=["34", 0], height=["35", 0], model=["12", 0],
        ),
        "34": node("PrimitiveInt", "How wide", value=1024),
        "35": node("PrimitiveInt", "Int", value=1024),
    }  # fmt: skip


def zeroed() -> Graph:
    """The negative is the positive made nothing of, as in workflows without guidance by classes."""
    graph = sd15()
    graph["7"] = node("ConditioningZeroOut", "ConditioningZeroOut", conditioning=["6", 0])
    return graph


def two_passes() -> Graph:
    """A second sampler over the enlarged first result, with values of its own."""
    graph = sd15() | {
        "10": node("LatentUpscaleBy", "Upscale Latent By", samples=["3", 0], upscale_method="nearest-exact", scale_by=1.5),
        "11": sampler("10", title="Second pass", seed=7, steps=14, denoise=0.5),
    }  # fmt: skip
    return graph | ending("11")


def joined_texts() -> Graph:
    """The prompt is put together from two texts, one of them in a primitive with a title."""
    graph = sd15() | {
        "20": node("PrimitiveStringMultiline", "Subject", value="a sailor"),
        "21": node("StringConcatenate", "Concatenate", string_a=["20", 0], string_b="oil on canvas", delimiter=", "),
        "22": node("PrimitiveFloat", "How much", value=0.5),
        "23": node("LoraLoader", "LoRA", strength_model=["22", 0], strength_clip=1, lora_name="l", model=["4", 0], clip=["4", 1]),
    }  # fmt: skip
    graph["6"] = encode(["21", 0])
    graph["3"]["inputs"]["model"] = ["23", 0]
    return graph


def upscale() -> Graph:
    return {
        "1": node("LoadImage", "Load Image", image="example.png"),
        "2": node("UpscaleModelLoader", "Load Upscale Model", model_name="4x.pth"),
        "3": node("ImageUpscaleWithModel", "Upscale Image (using Model)", upscale_model=["2", 0], image=["1", 0]),
        "4": node("ImageScale", "Upscale Image", image=["3", 0], upscale_method="lanczos", width=2048, height=2048, crop="disabled"),
        "5": node("SaveImage", "Save Image", filename_prefix="up", images=["4", 0]),
    }  # fmt: skip


def one_colour() -> Graph:
    return {
        "1": node("EmptyImage", "EmptyImage", width=64, height=32, batch_size=1, color=5),
        "2": node("SaveImage", "Save Image", images=["1", 0], filename_prefix="x"),
    }


def switched() -> Graph:
    """The prompt comes from a switch, whose other side a language model writes; the song has lyrics beside its tags."""
    graph = sd15() | {
        "20": node("PrimitiveStringMultiline", "As I say it", value="a sailor"),
        "21": node("PrimitiveStringMultiline", "System prompt", value="You write prompts."),
        "22": node("TextGenerate", "TextGenerate", prompt=["23", 0], max_length=64),
        "23": node("StringConcatenate", "Concatenate", string_a=["21", 0], string_b=["20", 0], delimiter=" "),
        "24": node("PrimitiveBoolean", "Enhance", value=True),
        "25": node("ComfySwitchNode", "Switch", on_false=["20", 0], on_true=["22", 0], switch=["24", 0]),
        "26": node("PreviewAny", "Preview as Text", source=["25", 0]),
        "27": node("PrimitiveFloat", "PrimitiveFloat", value=8),
        "28": node("Sharpen", None, by=["27", 0], samples=["3", 0]),
    }
    graph["6"] = node("TextEncodeAceStepAudio", None, clip=["4", 1], tags=["26", 0], lyrics="la la")
    return graph | ending("28")
