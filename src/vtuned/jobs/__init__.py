"""
Fine-tuning jobs at services: upload, create, wait, and look; resumable from a run directory.

`vtuned.jobs.base` says what a service is, `services` connects to one, `submitting` sends a training file, `journal` keeps
what happened.
"""
