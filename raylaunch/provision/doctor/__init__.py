"""Hosts before Ray runs on them: reached by ssh, probed by one script, judged by rules."""
