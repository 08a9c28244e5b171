"""
Every policy of a provider against one planted file, over HTTP: what each verdict says of it.

`settings` says what is asked, `world` plants once and measures the margin, `server` runs a provider in a process of its
own, `rounds` takes one policy from the upload to its verdict, `table` holds what came out.
"""
