"""What every room uses: errors, console, paths, processes, messages. Imports nothing of ours outside this room."""
