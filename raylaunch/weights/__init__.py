"""A model's files: from the Hugging Face Hub once, at the same path on every node, proven equal.

Who does what::

    hub.py        what a repo holds, and a file's bytes from any place on (huggingface_hub)
    part.py       one file on its way to a disk: appended, hashed, named when right
    transfer.py   one file's way through one node, from the node before to the node behind
    place.py      a model's folder on one machine
    agent.py     all of that on one node: an actor, or an object in this process
    agents.py       the agents of all nodes
    survey.py     what each node has, and what the model should be
    plan.py       who sends what to whom
    finish.py     the manifest, and the files in their place
    pull.py       rounds of survey, plan and moves until every node has everything
    fetch.py      the same for this machine alone, and the default model from PyPI
    check.py      every file on every node against the manifest
"""
