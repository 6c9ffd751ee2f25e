"""Keeping a service up: who watches whom, and what happens when something dies or stands still.

::

    raylaunch serve                 the supervisor: without Ray, vLLM and PyTorch, so that nothing of theirs can end it
     ├─ (thread) door.Door          owns the listening socket; answers 503 while no engine is ready
     ├─ (thread) control.Control    a socket in the service's folder: `raylaunch restart`
     ├─ raylaunch.server            vLLM's OpenAI app; accepts on the same socket once it is ready; tells pulses
     │    └─ EngineCore ─ Ray ─▶    TP x PP workers on all nodes
     ├─ keep.driver_process         joins Ray, checks the nodes, holds the GPUs; watches nodes and workers, tells pulses
     └─ keep.ray_process            demo and rehearsal only: a private Ray, which outlives the engines in it
          └─ Ray nodes

    serving ─▶ spare.Spare: the next raylaunch.server, its imports done, stands by
    still for a quarter of the limit ─▶ the spare's driver_process, too, as far as it comes without the GPUs
    death or wedge ─▶ clients told ─▶ server and driver ended, leftovers swept ─▶ incident written ─▶ started again
    was it Ray, or may it have been ─▶ rays.Rays: a fresh private Ray

All children get SIGTERM from the kernel should the supervisor die; Ray frees the GPUs and ends the workers when the
driver process or EngineCore goes. Every process of a service carries RAYLAUNCH_MARK in its environment, which is how
what is left over is known from what is somebody else's.
"""

MARK_VARIABLE = "RAYLAUNCH_MARK"
"""In the environment of every process of one start of an engine, on every node; a private Ray has one of its own."""
RANK_TITLE = "Worker"
"""In the title of a process that carries a rank ("ray::RayWorkerProc.run"), and not in that of Ray's idle ones."""
