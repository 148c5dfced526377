"""What happens beside the updates: metrics, previews, evaluation, checkpoints, report."""
