"""Keeping a service up: who watches whom, and what happens when something dies or stands still.

::

    raylaunch serve                 the supervisor: without Ray, vLLM and PyTorch, so that nothing of theirs can end it
     ├─ (thread) listener           owns the listening socket; answers 503 while no engine is ready
     ├─ (thread) control_socket     a socket in the service's folder: `raylaunch restart`
     ├─ engine.api_server           vLLM's OpenAI app; accepts on the same socket once it is ready; sends pulses
     │    └─ EngineCore ─ Ray ─▶    TP x PP workers on all nodes
     ├─ driver_main                 joins Ray, checks the nodes, holds the GPUs; watches nodes and ranks, sends pulses
     └─ private_ray_main            demo and rehearsal only: a private Ray, which outlives the engines in it
          └─ Ray nodes

    serving ─▶ standby: the next api_server, its imports done
    no progress for a quarter of the limit ─▶ the standby's driver_main, too, as far as it gets without the GPUs
    fault ─▶ clients get an error ─▶ engine and driver ended, leftovers swept ─▶ incident written ─▶ started again
    Ray is or may be the cause ─▶ a new private Ray

All children get SIGTERM from the kernel should the supervisor die; Ray frees the GPUs and ends the workers when the
driver process or EngineCore goes. Every process of a service carries RAYLAUNCH_MARK in its environment, which is how
what is left over is known from what is somebody else's.
"""
