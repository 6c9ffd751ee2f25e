"""Keeping a service up: the processes, what each of them watches, and what follows a fault.

::

    raylaunch serve                 the supervisor: without Ray, vLLM and PyTorch, none of whose faults can end it
     ├─ (thread) listener           owns the listening socket; answers 503 while no engine is ready
     ├─ (thread) control_socket     a socket in the service's folder: `raylaunch restart`
     ├─ (thread) replica            one for each engine of the launch; what follows is of one replica
     ├─ engine.api_server           vLLM's OpenAI app; accepts on the same socket once it is ready; sends pulses
     │    ├─ EngineCore ─ Ray ─▶    TP x PP workers on all nodes
     │    └─ more API servers       where one process is not enough: forked, and then they alone accept
     ├─ driver_main                 joins Ray, checks the nodes, holds the GPUs; watches nodes and ranks, sends pulses
     └─ private_ray_main            demo and rehearsal only: a private Ray, which outlives the engines in it
          └─ Ray nodes

    several replicas share the listening socket: the least loaded API server accepts, of any replica
    serving ─▶ standby: the next api_server, its imports done
    fault ─▶ clients get an error ─▶ engine and driver ended, leftovers swept ─▶ incident written ─▶ started again
    Ray is or may be the cause ─▶ a new private Ray

If the supervisor dies, the kernel sends SIGTERM to its children; Ray frees the GPUs and ends the workers when the
driver process or EngineCore ends. Every process of a service has RAYLAUNCH_MARK in its environment, which distinguishes
what is left of it from other processes.
"""
