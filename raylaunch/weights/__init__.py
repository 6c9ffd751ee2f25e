"""A model's files: downloaded from the Hugging Face Hub once, copied from node to node, verified by hash.

::

    hub.py, hub_types.py,     list a repo and read its files (huggingface_hub); explain the hub's refusals
    hub_errors.py
    partial_file.py           write and hash one file that is arriving
    transfer.py               pass one file through one node: from a disk, the hub or the previous node
    store.py                  the model's folder on one machine: state, final rename, removal
    working_folder.py         the download folder and the lock next to it
    own_files.py              files of the user where the model's belong
    node_agent.py             all of that on one node: a Ray actor, or an object in this process
    agents.py                 the agents of all nodes
    expected_files.py         which files the model consists of
    inventory.py              what each node has
    transfer_plan.py          which node sends which file to which nodes
    survey.py                 the start of each round of a pull
    commit.py                 write the manifest and move the files into the folder
    progress.py               progress lines and the result of a pull
    pull.py                   rounds of inventory, plan and transfers until every node is complete
    verification.py           check all nodes against the manifest; remove a model
    fetch_local.py            pull on this machine alone, for `serve`
    smollm2.py                the default model, from PyPI
    child_step.py             run one step of fetch_local in a child process
"""
