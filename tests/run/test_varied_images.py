"""A whole run whose images vary in crop and colour, and the same run stopped in the middle and resumed."""

from tiny_run import configure, learned, train_until

from ti_flax.run import train as run

VARIED = {
    "crop_jitter": 0.3,
    "color_jitter": [0.3, 0.3, 0.3, 0.1],
    "augmentations_per_image": 3,
    "max_train_steps": 4,
}


def test_varied_images_are_learned_and_a_resumed_run_has_the_same_bits(place, tmp_path, capsys):
    config = configure(place, tmp_path / "whole", **VARIED)
    whole = learned(run.train(config))
    assert "18 encoded images and mirror images, 3 variants of each, take " in capsys.readouterr().err
    # Elsewhere nothing is cached, so that every variant is made and encoded again.
    other = {"output_dir": str(tmp_path / "parts"), "latents_cache_dir": str(tmp_path / "cache")}
    parts = config.replace(**other)
    train_until(parts, 2)
    assert not (tmp_path / "parts" / "learned_embeds.safetensors").exists()
    resumed = learned(run.train(parts.replace(resume_from_checkpoint="auto")))
    assert resumed.tobytes() == whole.tobytes()
