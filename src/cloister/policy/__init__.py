"""What is allowed here: the appliance's settings, and in time its roles, approvals and Cedar policies."""

from cloister.policy.settings import Settings, load_settings

__all__ = ["Settings", "load_settings"]
