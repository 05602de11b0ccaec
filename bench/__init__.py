"""Time and joules of each op and of a model, against their peers.

case -> runner -> meter -> record -> report.
"""
