"""What is fast, and beside what: each module is a command with --json."""
