"""Files that ship with raylaunch."""
