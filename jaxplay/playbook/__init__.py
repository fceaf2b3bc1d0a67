"""The procedures of the Deep Learning Tuning Playbook."""
