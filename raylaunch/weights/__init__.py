"""A model's files: downloaded from the Hugging Face Hub once, copied from node to node, verified by hash.

pull.py runs rounds until every node is complete: survey.py finds what each has and lacks, transfer_plan.py plans who
sends what, node_agent.py does it on each node (store.py, transfer.py), commit.py moves the files into the folder.
"""
