"""Uploading a run's folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from ti_flax.errors import OutputError

# Checkpoints and logs are for resuming and watching, not for sharing.
_LEFT_OUT = ["checkpoint-*", "logs/*", "learned_embeds-steps-*", ".*"]


def push_to_hub(output_dir: Path, *, repo_id: str | None, token: str | None, private: bool) -> str:
    """Uploads the folder to a model repository, made if need be, and returns its id.

    Raises:
      OutputError: the Hub refused or cannot be reached; the folder itself is complete.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    name = repo_id or output_dir.resolve().name
    try:
        made = api.create_repo(name, private=private or None, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=made,
            folder_path=output_dir,
            ignore_patterns=_LEFT_OUT,
            commit_message="Learn a concept by Textual Inversion",
        )
    except Exception as error:  # the Hub's client and its transport share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OutputError(
            f"upload to {name}",
            expected="a Hub that can be reached and a valid login",
            found=reason.replace(token, "***") if token else reason,
            remedy=f"Nothing is lost: run `hf upload {name} {output_dir}` when it works again.",
        ) from error
    return made
