"""The playbook's procedures: run studies until their rules can decide.

Each module asks one question. It runs studies in a `lab.Lab`, hands their
numbers to the module of the same name in `planning`, which decides, and returns
its `planning.answer.Answer`. What trains is handed in: nothing here knows JAX.
"""
