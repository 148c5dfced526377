"""Files a run leaves behind: learned_embeds, the full pipeline, the model card."""
