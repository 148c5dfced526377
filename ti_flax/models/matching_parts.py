"""Whether the parts of a model belong together, told by their configs."""

from collections.abc import Mapping

from ti_flax.errors import WeightsError
from ti_flax.models.text_encoder import CLIPTextConfig
from ti_flax.models.unet import SIZES, UNet2DConditionConfig
from ti_flax.models.vae import AutoencoderKLConfig


def check_latents(unet: UNet2DConditionConfig, vae: AutoencoderKLConfig, where: str) -> None:
    """Raise a WeightsError unless the UNet takes and gives the autoencoder's latents."""
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"in_channels and out_channels {vae.latent_channels}, the latent_channels of the VAE",
            found=f"{unet.in_channels} and {unet.out_channels}",
            remedy="Inpainting, depth and upscaling models cannot be trained; use the text-to-image model.",
        )


def check_prompts(unet: UNet2DConditionConfig, texts: Mapping[str, CLIPTextConfig], where: str) -> None:
    """Raise a WeightsError unless the UNet takes what the text encoders, by name, make of a prompt."""
    width = sum(config.hidden_size for config in texts.values())
    if unet.cross_attention_dim != width:
        of = "the text encoder" if len(texts) == 1 else "both text encoders together"
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"cross_attention_dim {width}, the hidden_size of {of}",
            found=str(unet.cross_attention_dim),
        )
    pooled = texts["text_encoder_2"].projection_dim if "text_encoder_2" in texts else None
    if (pooled is None) != (unet.addition_embed_type is None):
        raise WeightsError(
            f"{where}: unet/config.json, field addition_embed_type",
            expected="text_time beside two text encoders, and nothing beside one",
            found=f"{unet.addition_embed_type} beside {len(texts)}",
            remedy="Use a text-to-image model; refiners cannot be trained.",
        )
    if pooled is not None and unet.pooled_dim != pooled:
        sizes = unet.addition_time_embed_dim or 0
        raise WeightsError(
            f"{where}: unet/config.json",
            expected=f"projection_class_embeddings_input_dim {pooled + SIZES * sizes}: the projection_dim of "
            f"text_encoder_2, {pooled}, and {SIZES} times addition_time_embed_dim, {sizes}",
            found=str(unet.projection_class_embeddings_input_dim),
        )
