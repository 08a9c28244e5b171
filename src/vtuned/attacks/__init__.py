"""
What a cheating provider would run.

Everything here gets the training file at most, never the receipt; one policy is told row numbers by an oracle.
"""
