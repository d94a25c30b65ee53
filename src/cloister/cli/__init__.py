"""The command line: one module a noun, every command through the same typed client as the console.

Modules import Typer at the top and everything else inside the command, so that help is quick.
"""
