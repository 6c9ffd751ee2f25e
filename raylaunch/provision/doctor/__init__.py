"""Hosts before Ray runs on them: reached by ssh, looked at by one script, judged by rules."""
