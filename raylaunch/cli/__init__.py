"""The verbs of `raylaunch`, a module for each family; each verb parses, loads, makes one call and prints."""
