"""What a run says, and what it hears: messages, the terminal, signals, exit codes."""
