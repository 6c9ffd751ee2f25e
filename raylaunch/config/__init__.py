"""The two files: launch file and cluster file, read, merged, checked and frozen."""
