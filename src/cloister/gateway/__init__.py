"""The only network listener: OpenAI's routes in front of the engines' Unix sockets, every request recorded.

It knows keys by their hash and deployments by name, both learnt from the authority, and holds no key to
any stored object. It does not know policy, users or the vault.
"""
