"""Images, captions and prompts, and the batches that are made of them."""
