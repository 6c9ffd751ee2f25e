"""Whether the ranks reach each other: measured from their own places before the model is loaded."""
