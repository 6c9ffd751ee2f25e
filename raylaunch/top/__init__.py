"""`raylaunch top`: every node and GPU, the engine and its supervisor on one screen, each second."""
